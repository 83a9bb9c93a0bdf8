"""Many requests side by side: pace, budget, a wish to stop; every reply is kept before the next."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum, auto

from opdcliff.grading.answers import Reason, Reply, read_answer
from opdcliff.grading.cache import AnswerCache, Entry, kept_text
from opdcliff.grading.client import Judge
from opdcliff.grading.cost import Budget
from opdcliff.grading.questions import Question
from opdcliff.processes import requested
from opdcliff.settings import GradeConfig

# Of requests under way when this process is asked to go: seconds to come to their end.
GRACE_S = 10.0
# Requests in a row without any answer, after which an endpoint counts as gone.
GONE_AFTER = 5
_LOOK_EVERY_S = 0.1


class Halt(Enum):
    """Why not all requests were sent."""

    LIMIT = auto()
    ASKED_TO_STOP = auto()
    ENDPOINT_GONE = auto()


def ask_all(
    questions: Sequence[Question],
    settings: GradeConfig,
    key: str | None,
    cache: AnswerCache,
    budget: Budget,
    done: Callable[[int], None],
) -> Halt | None:
    """Ask and keep; None where all were asked. done: is told how many replies there are so far.

    Raises:
        ConfigError: the endpoint refuses the settings. KeyboardInterrupt: at once; what had been
            answered is kept.
    """
    return asyncio.run(_Asking(questions, settings, key, cache, budget, done).run())


class _Asking:
    def __init__(
        self,
        questions: Sequence[Question],
        settings: GradeConfig,
        key: str | None,
        cache: AnswerCache,
        budget: Budget,
        done: Callable[[int], None],
    ) -> None:
        self._waiting = deque(questions)
        self._settings, self._key = settings, key
        self._cache, self._budget, self._done = cache, budget, done
        self._halt: Halt | None = None
        self._answered = self._unanswered_in_a_row = 0

    async def run(self) -> Halt | None:
        judge = Judge(self._settings, self._key)
        count = min(self._settings.concurrency, len(self._waiting))
        workers = [asyncio.create_task(self._work(judge)) for _ in range(count)]
        try:
            await self._watch(workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await judge.close()
        return self._halt

    async def _watch(self, workers: list[asyncio.Task[None]]) -> None:
        """Wait for the workers; once asked to go, not for longer than the grace."""
        loop, until, rest = asyncio.get_running_loop(), None, set(workers)
        while rest and (until is None or loop.time() < until):
            ended, rest = await asyncio.wait(
                rest, timeout=_LOOK_EVERY_S, return_when=asyncio.FIRST_EXCEPTION
            )
            for worker in ended:
                worker.result()
            if requested() and until is None:
                self._halt, until = Halt.ASKED_TO_STOP, loop.time() + GRACE_S

    async def _work(self, judge: Judge) -> None:
        while self._waiting and self._halt is None:
            question = self._waiting.popleft()
            while not self._budget.set_aside(question):
                if not self._budget.under_way:
                    self._halt = self._halt or Halt.LIMIT
                if self._halt is not None:
                    return
                await asyncio.sleep(_LOOK_EVERY_S)
            try:
                reply = await judge.ask(question)
            except BaseException:
                self._budget.release(question)
                raise
            self._keep(question, reply)

    def _keep(self, question: Question, reply: Reply) -> None:
        most = self._budget.most(question)
        graded = read_answer(question, reply)
        counted = reply.tokens_in is not None and reply.tokens_out is not None
        answered = reply.problem is None
        entry = Entry(
            question.key,
            graded.grades,
            None if graded.reason is None else graded.reason.value,
            graded.detail,
            "" if graded.reason in (None, Reason.NO_ANSWER) else kept_text(reply.text or ""),
            (reply.tokens_in if counted else most.sent if answered else 0) or 0,
            (reply.tokens_out if counted else most.answered if answered else 0) or 0,
            answered and not counted,
            most.sent * reply.lost,
            most.answered * reply.lost,
        )
        self._cache.add(entry)
        self._budget.settle(question, entry)
        self._answered += 1
        self._done(self._answered)
        self._unanswered_in_a_row = 0 if answered else self._unanswered_in_a_row + 1
        if self._unanswered_in_a_row >= GONE_AFTER and self._halt is None:
            self._halt = Halt.ENDPOINT_GONE
