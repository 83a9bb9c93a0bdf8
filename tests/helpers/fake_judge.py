"""A judge on loopback that answers as a test says: right, wrong, late, half, or not at all."""

from __future__ import annotations

import json
import re
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY_VARIABLE = "JUDGE_OF_TESTS"
KEY = "sk-a-Key-that-must-not-be-seen-0123456789"
_CANDIDATE = re.compile(r'^([A-Z]): (".*")$', re.MULTILINE)

Grade = Callable[[str], int]


@dataclass(frozen=True)
class Act:
    """What the server does with one request.

    text: the message; None for right grades. status, headers: of an error. stall: seconds before
    anything is sent. drop: close without a word; half: send half of the body, and close if
    `half_closes` else say that this was all. thoughts: tokens that the total alone counts.
    """

    text: str | None = None
    finish: str = "stop"
    refusal: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    stall: float = 0.0
    drop: bool = False
    half: bool = False
    half_closes: bool = False
    usage: bool = True
    thoughts: int = 0


RIGHT = Act()


def grade_by_title(title: str) -> int:
    """A grade that depends on the title alone."""
    return zlib.crc32(title.encode()) % 5


def candidates_in(body: dict[str, Any]) -> dict[str, str]:
    """Label and title of the candidates that a request asks about."""
    text = body["messages"][-1]["content"]
    return {label: json.loads(title) for label, title in _CANDIDATE.findall(text)}


class FakeJudge:
    """What was asked, and what is done about it. act: (number from 0, body) -> what to do."""

    def __init__(self, act: Callable[[int, dict[str, Any]], Act], grade: Grade) -> None:
        self.act, self.grade = act, grade
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.times: list[float] = []
        self.url = ""
        self._lock = threading.Lock()
        self.leave = threading.Event()
        self.most_at_once = self._at_once = 0

    def take(self, body: dict[str, Any], key: str | None) -> Act:
        with self._lock:
            number = len(self.bodies)
            self.bodies.append(body)
            self.keys.append(key)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        return self.act(number, body)

    def end(self) -> None:
        with self._lock:
            self._at_once -= 1

    def right(self, body: dict[str, Any]) -> str:
        grades = {label: self.grade(title) for label, title in candidates_in(body).items()}
        return json.dumps(grades, separators=(",", ":"))

    def words(self, **changes: object) -> list[str]:
        """Words of a command line that asks this judge."""
        settings = {
            "base_url": f"{self.url}/v1",
            "model": "tiny-judge",
            "key_variable": KEY_VARIABLE,
            "timeout": 60.0,
            "retries": 0,
            "bootstrap": 20,
            "repeats": 0,
        } | changes
        return [
            f"grade.{name}={'null' if value is None else value}" for name, value in settings.items()
        ]


@contextmanager
def fake_judge(
    act: Callable[[int, dict[str, Any]], Act] = lambda number, body: RIGHT,
    grade: Grade = grade_by_title,
) -> Iterator[FakeJudge]:
    """A judge that listens in this block."""
    judge = FakeJudge(act, grade)

    class Handler(_Handler):
        of = judge

    server = _Server(("127.0.0.1", 0), Handler)
    judge.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        judge.leave.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """The other side was killed, which is what a test wants."""


class _Handler(BaseHTTPRequestHandler):
    of: FakeJudge
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        act = self.of.take(body, self.headers.get("Authorization"))
        try:
            self._answer(act, body)
        except OSError:
            # The other side had enough.
            self.close_connection = True
        finally:
            self.of.end()

    def _answer(self, act: Act, body: dict[str, Any]) -> None:
        if act.stall:
            self.of.leave.wait(act.stall)
        if act.drop:
            self.close_connection = True
            return
        text = act.body if act.body is not None else json.dumps(self._completion(act, body))
        if act.status != 200 and act.body is None:
            text = json.dumps({"error": {"message": "no", "code": None}})
        data = text.encode()
        sent = data[: len(data) // 2] if act.half else data
        self.send_response(act.status)
        for name, value in act.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data if act.half_closes else sent)))
        self.end_headers()
        self.wfile.write(sent)
        if act.half_closes:
            self.close_connection = True

    def _completion(self, act: Act, body: dict[str, Any]) -> dict[str, Any]:
        text = self.of.right(body) if act.text is None else act.text
        message = {"role": "assistant", "content": None if act.refusal else text}
        if act.refusal:
            message["refusal"] = act.refusal
        completion: dict[str, Any] = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "tiny-judge",
            "choices": [{"index": 0, "message": message, "finish_reason": act.finish}],
        }
        if act.usage:
            tokens = sum(len(m["content"]) for m in body["messages"]) // 4
            completion["usage"] = {
                "prompt_tokens": tokens,
                "completion_tokens": 20,
                "total_tokens": tokens + 20 + act.thoughts,
            }
        return completion

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""
