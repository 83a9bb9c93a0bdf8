"""The judge's endpoint through the official `openai` client, which times out and tries again.

What the client offers is used as it is: timeouts, backoff, Retry-After. Ours are the pace, the
count of attempts whose answer was lost, and what each way to fail means for a list.
"""

from __future__ import annotations

import asyncio
import math
import os
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from opdcliff.errors import ConfigError
from opdcliff.grading.answers import Reply
from opdcliff.grading.questions import Question
from opdcliff.settings import GradeConfig
from opdcliff.storage import redact_text

# The client waits at most so long between two attempts, where the endpoint asks for it.
_LONGEST_WAIT_S = 120.0
# Of an address that needs no key; the client wants one.
_NO_KEY = "none"
# Of a request, by its form: the words of the endpoint say what it does not know.
NOT_TAKEN, _MOST_WORDS = (400, 422), 160
_SENT_BY_NAME = ("model", "messages")


@dataclass
class _Attempts:
    """Of one request: how often it was sent whole, and how often refused by a status."""

    sent: int = 0
    refused: int = 0

    @property
    def lost(self) -> int:
        """Those that may have been answered, and billed."""
        return max(0, self.sent - self.refused)

    async def trace(self, event: str, _: object) -> None:
        """What the transport says of its work; a request that found no connection is not sent."""
        self.sent += event.endswith("send_request_body.complete")


_attempts: ContextVar[_Attempts] = ContextVar("attempts")


def key_of(settings: GradeConfig) -> str | None:
    """The key, from the environment; None for an endpoint that needs none.

    Raises:
        ConfigError: the variable is not set.
    """
    if settings.key_variable is None:
        return None
    key = os.environ.get(settings.key_variable, "").strip()
    if not key:
        raise ConfigError(
            f"grade.key_variable={settings.key_variable}: there is no such environment variable; "
            "set it to the key, or set grade.key_variable=null for an endpoint that needs none"
        )
    return key


class Judge:
    """One endpoint and model; use inside one event loop, and close it there."""

    def __init__(self, settings: GradeConfig, key: str | None) -> None:
        self._library = _openai()
        self._settings, self._key = settings, key
        self._next_start = 0.0
        http = self._library.DefaultAsyncHttpxClient(
            event_hooks={"request": [self._sending], "response": [self._received]}
        )
        self._client = self._library.AsyncOpenAI(
            base_url=settings.base_url,
            api_key=key or _NO_KEY,
            timeout=settings.timeout,
            max_retries=settings.retries,
            http_client=http,
        )

    async def ask(self, question: Question) -> Reply:
        """The reply to a question; every failure but that of a setting is in it.

        Raises:
            ConfigError: the endpoint knows neither key nor model, or is no such endpoint.
        """
        counted = _Attempts()
        _attempts.set(counted)
        retries = self._settings.retries
        # Not even an endpoint that sends a byte now and then holds a request for ever.
        pace = self._settings.concurrency * 60.0 / (self._settings.per_minute or math.inf)
        once = 2 * self._settings.timeout + pace
        longest = (retries + 1) * once + retries * _LONGEST_WAIT_S
        problem = "timeout"
        try:
            async with asyncio.timeout(longest):
                return self._reply(await self._send(question), counted)
        except (self._library.APITimeoutError, TimeoutError):
            pass
        except self._library.APIConnectionError:
            problem = "no connection, or it was lost"
        except self._library.APIStatusError as error:
            self._refuse_settings(error)
            if error.code == "content_filter":
                return Reply(refusal="content_filter", lost=counted.lost)
            problem = f"status {error.status_code}"
            if error.status_code in NOT_TAKEN:
                problem += f" ({self._words_of(error)})"
        except (self._library.OpenAIError, ValueError, TypeError, LookupError, AttributeError):
            # An answer of status 200 whose body is cut, or of another form.
            problem = "a body that is not as it should be"
        return Reply(lost=counted.lost, problem=problem)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    def clean(self, text: str) -> str:
        """A text of the endpoint without the key, which some repeat."""
        return redact_text(text if self._key is None else text.replace(self._key, "***"))

    async def _send(self, question: Question) -> Any:
        body = question.body
        more = {name: value for name, value in body.items() if name not in _SENT_BY_NAME}
        return await self._client.chat.completions.create(
            model=body["model"], messages=body["messages"], extra_body=more
        )

    def _reply(self, completion: Any, counted: _Attempts) -> Reply:
        choice, usage = completion.choices[0], completion.usage
        text, refusal = choice.message.content, getattr(choice.message, "refusal", None)
        if not isinstance(text, str | None) or choice.finish_reason is None:
            raise TypeError
        return Reply(
            None if text is None else self.clean(text),
            choice.finish_reason,
            None if not refusal else "refused",
            _count(usage, "prompt_tokens"),
            _answered(usage),
            lost=max(0, counted.lost - 1),
        )

    def _refuse_settings(self, error: Any) -> None:
        meaning = {401: "it does not take the key", 403: "the key does not allow it"}
        meaning[404] = "it has no such model, or no chat completions at this address"
        if error.status_code in meaning:
            said = f"{meaning[error.status_code]} ({self._words_of(error)})"
            raise ConfigError(
                f"grade.base_url={self._settings.base_url} grade.model={self._settings.model}: "
                f"status {error.status_code}, {said}; check grade.base_url, grade.model and the key"
            )

    def _words_of(self, error: Any) -> str:
        body = error.body
        said = body.get("message") or body.get("detail") if isinstance(body, dict) else body
        words = " ".join(self.clean(str(said or error.message)).split())[:_MOST_WORDS]
        return "".join(c if c.isascii() and c.isprintable() else "?" for c in words)

    async def _sending(self, request: Any) -> None:
        request.extensions = {**request.extensions, "trace": _attempts.get().trace}
        if self._settings.per_minute is not None:
            loop = asyncio.get_running_loop()
            start = max(loop.time(), self._next_start)
            self._next_start = start + 60.0 / self._settings.per_minute
            await asyncio.sleep(start - loop.time())

    async def _received(self, response: Any) -> None:
        if response.status_code >= 400:
            _attempts.get().refused += 1


def _answered(usage: object) -> int | None:
    """Tokens of the answer; some endpoints count thoughts in the total alone."""
    answered, sent = _count(usage, "completion_tokens"), _count(usage, "prompt_tokens")
    total = _count(usage, "total_tokens")
    if answered is None or sent is None or total is None:
        return answered
    return max(answered, total - sent)


def _count(usage: object, name: str) -> int | None:
    value = getattr(usage, name, None)
    return value if type(value) is int and value >= 0 else None


def _openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise ConfigError(
            "opdcliff grade needs the package openai; `pip install -e '.[judge]'` adds it"
        ) from error
    return openai
