"""A stand-in for a judge, on this machine: speaks OpenAI's chat protocol and knows nothing.

    python benchmarks/stand_in_judge.py [PORT]

A candidate's grade is the number of words (of more than three letters) that its title shares with
the rest of the question, at most 4. That is enough to go the road of `opdcliff grade`, and no
opinion on relevance. It prints its address and serves until it is killed.
"""

from __future__ import annotations

import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_CANDIDATE = re.compile(r'^([A-Z]): (".*")$', re.MULTILINE)
_MOST = 4


def grades(question: str) -> dict[str, int]:
    """The grade of each candidate of a question by its label."""
    found = dict(_CANDIDATE.findall(question))
    rest = words(_CANDIDATE.sub("", question))
    return {
        label: min(_MOST, len(words(json.loads(title)) & rest)) for label, title in found.items()
    }


def words(text: str) -> set[str]:
    """Its words of more than three letters."""
    return {word for word in re.findall(r"\w+", text.lower()) if len(word) > 3}


class Judge(BaseHTTPRequestHandler):
    """Answers every request for a completion with grades as JSON."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """One completion."""
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = json.dumps(grades(body["messages"][-1]["content"]))
        message = {"role": "assistant", "content": text}
        reply = {
            "id": "stand-in",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        }
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if sys.argv[1:] else 0), Judge)
    print(f"http://127.0.0.1:{server.server_address[1]}/v1", flush=True)
    server.serve_forever()
