"""`opdcliff grade` against a real server on loopback that is right, wrong, late, half or gone."""

from __future__ import annotations

import hashlib
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from fake_judge import KEY, KEY_VARIABLE, RIGHT, Act, candidates_in, fake_judge, grade_by_title
from judge_desk import ALL, Desk
from opdcliff.data.amazon.loading import load_amazon
from opdcliff.data.amazon.shares import SplitPlan
from opdcliff.grading.cache import ANSWERS

pytestmark = pytest.mark.slow


def always(act: Act) -> Any:
    return lambda number, body: act


def first(count: int, act: Act) -> Any:
    return lambda number, body: act if number < count else RIGHT


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def manifest(desk: Desk) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(desk.rubric().with_name("rubric.manifest.json").read_text())
    return found


# ---- the whole way ----------------------------------------------------------------------------


def test_a_judge_writes_the_rubric_that_a_run_reads(desk: Desk, shop: Path) -> None:
    with fake_judge() as judge:
        said = desk.grade(judge, price_in=1.0, price_out=4.0)
        assert said.code == 0, said.err
        assert judge.keys == [f"Bearer {KEY}"] * len(judge.bodies)
        found = manifest(desk)
    file = desk.rubric()
    assert found["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    for row in rows(file):
        assert row["grade"] == grade_by_title(f"plain gadget {row['parent_asin']}")
    splits, report = load_amazon(
        shop,
        candidates=4,
        seed=0,
        sizes=SplitPlan.of_sizes(8, 4, 4),
        rubric=file,
        max_history=1,
        max_title_words=3,
    )
    assert report.unnamed == 0
    assert [len(part) for part in (splits.train, splits.calibration, splits.test)] == [8, 4, 4]
    # Lists without a grade above 0 were asked about too, and others took their place.
    assert found["lists"]["graded"] == len(judge.bodies) >= ALL
    assert len(rows(file)) == 4 * len(judge.bodies)
    assert sum(found["grades"].values()) == len(rows(file))
    tokens = found["tokens"]
    assert found["cost"] == pytest.approx((tokens["sent"] + 4 * tokens["answered"]) / 1e6)
    assert tokens["answered"] == 20 * len(judge.bodies)
    assert "rank correlation" in said.out
    assert f"data.rubric={file}" in said.out


def test_lists_of_zeros_are_replaced_until_a_run_has_enough(desk: Desk, shop: Path) -> None:
    """As `load_amazon` passes over them: a split would come out short."""
    with fake_judge(grade=lambda title: int(title.endswith(("1", "5")))) as judge:
        assert desk.grade(judge, "data.train=6", "data.test=2", "data.calibration=2").code == 0
        asked = len(judge.bodies)
    assert asked > 10
    _, report = load_amazon(
        shop,
        candidates=4,
        seed=0,
        sizes=SplitPlan.of_sizes(6, 2, 2),
        rubric=desk.rubric(),
        max_history=1,
        max_title_words=3,
    )
    assert report.splits == {"train": 6, "calibration": 2, "test": 2}
    assert report.rejected["users: no candidate graded above 0"] == asked - 10
    assert report.unnamed == 0


def test_users_that_run_out_are_said(desk: Desk) -> None:
    with fake_judge(grade=lambda title: int(title.endswith("7"))) as judge:
        said = desk.grade(judge)
    assert said.code == 0
    assert "there are no more users" in said.err


def test_a_second_call_asks_nothing_and_changes_nothing(desk: Desk) -> None:
    with fake_judge() as judge:
        assert desk.grade(judge, repeats=3).code == 0
        asked, before = len(judge.bodies), desk.rubric().read_bytes()
        said = desk.grade(judge, repeats=3)
        assert said.code == 0
        assert len(judge.bodies) == asked
    assert desk.rubric().read_bytes() == before
    # Nor does it say that it is about to.
    assert "tokens to send" not in said.err


def test_more_lists_reuse_what_was_paid_for(desk: Desk) -> None:
    with fake_judge(grade=lambda title: 1) as judge:
        assert desk.grade(judge).code == 0
        assert len(judge.bodies) == ALL
        # The shares of the splits stay as they were, and so do the users in them.
        more = ["data.train=12", "data.calibration=6", "data.test=6"]
        assert desk.grade(judge, *more).code == 0
        assert len(judge.bodies) == 24


def test_candidates_of_a_list_may_be_asked_about_in_parts(desk: Desk) -> None:
    with fake_judge(grade=lambda title: 2) as judge:
        assert desk.grade(judge, candidates=3).code == 0
        sizes = sorted(len(candidates_in(body)) for body in judge.bodies)
    assert sizes == [1] * ALL + [3] * ALL
    assert len(rows(desk.rubric())) == 4 * ALL


def test_lists_are_graded_twice_in_another_order(desk: Desk) -> None:
    with fake_judge() as judge:
        assert desk.grade(judge, repeats=5).code == 0
        asked = [tuple(candidates_in(body).values()) for body in judge.bodies]
    found = manifest(desk)
    assert found["lists"]["graded_again"] == 5
    again = asked[-5:]
    assert len(set(asked)) > len(asked) - 5
    for order in again:
        assert any(sorted(order) == sorted(other) for other in asked[:-5])
    (kappa, equal, *_) = found["agreement"]
    assert (kappa["with"], kappa["value"], kappa["lists"]) == ("itself", 1.0, 5)
    assert equal["value"] == 1.0


def test_a_rubric_of_ones_own_makes_another_file(desk: Desk) -> None:
    own = desk.folder / "own.txt"
    own.write_text("Grade by colour alone.\n")
    with fake_judge(grade=lambda title: 1) as judge:
        assert desk.grade(judge).code == 0
        assert desk.grade(judge, rubric=own).code == 0
    assert len(judge.bodies) == 2 * ALL
    assert all(
        body["messages"][0]["content"].startswith("Grade by colour alone.\n\nAnswer with one JSON")
        for body in judge.bodies[ALL:]
    )
    found = [
        json.loads(path.read_text()) for path in desk.folder.glob("runs/assets/rubric-*/*.json")
    ]
    assert sorted(each["rubric"]["own"] for each in found) == [False, True]


def test_a_dry_run_says_the_cost_and_asks_nothing(desk: Desk) -> None:
    with fake_judge() as judge:
        said = desk.grade(judge, "dry_run=true", price_in=1.0, price_out=4.0)
        assert said.code == 0
        assert judge.bodies == []
    assert f"{ALL} lists; about " in said.err
    assert "cost 0.0" in said.err
    assert "You judge how relevant" in said.out
    # What was read of the raw rows is kept, and nothing of a judge.
    kept = {path.relative_to(desk.folder).parts[2].split("-")[0] for path in desk.written()}
    assert kept == {"rows", "raw"}


def test_another_judge_is_set_beside(desk: Desk) -> None:
    with fake_judge() as judge:
        assert desk.grade(judge).code == 0
        theirs = [row | {"grade": (row["grade"] + 1) % 5} for row in rows(desk.rubric())]
        other = desk.folder / "other.jsonl"
        other.write_text("".join(json.dumps(row) + "\n" for row in theirs))
        said = desk.grade(judge, other=other)
        assert said.code == 0
        words = [f"data.rubric={desk.rubric()}", f"grade.other={other}", "grade.bootstrap=20"]
        table = desk.call("grade", "source=table", *desk.words, *words)
    assert table.code == 0, table.err
    for out in (said.out, table.out):
        assert "other judge" in out
        assert "order of the other" in out
    (equal,) = (
        row
        for row in manifest(desk)["agreement"]
        if row["with"] == "other judge" and row["statistic"] == "equal grades"
    )
    assert equal["value"] == 0.0


# ---- answers that grade nothing ---------------------------------------------------------------

BAD = {
    "refusal": Act(refusal="I cannot"),
    "truncated": Act(finish="length"),
    "malformed": Act(text='{"A":1,'),
    "missing candidate": Act(text='{"A":1}'),
    "unknown candidate": Act(text='{"A":1,"B":1,"C":1,"D":1,"E":1}'),
    "candidate graded twice": Act(text='{"A":1,"A":1,"B":1,"C":1,"D":1}'),
    "out of range": Act(text='{"A":1,"B":1,"C":1,"D":7}'),
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_answer_is_counted_and_asked_again_by_the_next_call(desk: Desk, reason: str) -> None:
    with fake_judge(first(1, BAD[reason])) as judge:
        said = desk.grade(judge, concurrency=1)
        assert said.code == 7
        assert f"1 of {ALL} lists have no grades (requests: {reason} 1)" in said.last
        assert not list(desk.folder.glob("runs/assets/rubric-*/*"))
        assert len(judge.bodies) == ALL
        assert desk.grade(judge, concurrency=1).code == 0
    found = manifest(desk)["requests"]["by_reason"]
    assert found[reason] == 1
    assert found["graded"] == manifest(desk)["lists"]["graded"]


def test_lists_without_grades_are_left_out_whole_where_that_is_allowed(desk: Desk) -> None:
    sick: list[str] = []

    def act(number: int, body: dict[str, Any]) -> Act:
        sick.extend([body["messages"][-1]["content"]] * (number == 0))
        return BAD["missing candidate"] if body["messages"][-1]["content"] in sick else RIGHT

    with fake_judge(act, grade=lambda title: 3) as judge:
        assert desk.grade(judge, ungraded=0.05).code == 7
        assert desk.grade(judge, ungraded=0.07).code == 0
        found = manifest(desk)
    assert found["lists"]["ungraded"] == 1
    assert found["lists"]["ungraded_requests_by_reason"] == {"missing candidate": 1}
    # Another list took its place.
    assert len(rows(desk.rubric())) == 4 * ALL
    assert found["lists"]["graded"] == ALL


# ---- an endpoint with faults ------------------------------------------------------------------

FAULTS = {
    "stalls": Act(stall=30.0),
    "drops": Act(drop=True),
    "asks to wait": Act(status=429, headers={"Retry-After": "0.05"}),
    "breaks": Act(status=500),
    "is overloaded": Act(status=503),
    "sends half and closes": Act(half=True, half_closes=True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_not_seen_in_the_rubric(desk: Desk, fault: str) -> None:
    with fake_judge(first(2, FAULTS[fault]), grade=lambda title: 1) as judge:
        stalls = fault == "stalls"
        said = desk.grade(judge, timeout=2.0 if stalls else 60.0, retries=4, concurrency=2)
        assert said.code == 0, said.err
        # A busy machine may be late with a right answer too.
        assert len(judge.bodies) == ALL + 2 or (stalls and len(judge.bodies) > ALL + 2)
    assert manifest(desk)["requests"]["by_reason"] == {"graded": ALL}
    lost = manifest(desk)["tokens_of_lost_answers_at_most"]
    # What was refused by a status is not billed; what was lost may be.
    refused = fault in ("asks to wait", "breaks", "is overloaded")
    assert lost["answered"] == (0 if refused else 1024 * (len(judge.bodies) - ALL))


GONE = {
    "stalls": "no answer: timeout 5",
    "drops": "no answer: no connection, or it was lost 5",
    "asks to wait": "no answer: status 429 5",
    "breaks": "no answer: status 500 5",
}


@pytest.mark.parametrize("fault", GONE)
def test_an_endpoint_that_does_not_answer_is_given_up_soon(desk: Desk, fault: str) -> None:
    with fake_judge(always(FAULTS[fault])) as judge:
        said = desk.grade(judge, timeout=0.2 if fault == "stalls" else 60.0, concurrency=1)
        assert said.code == 7
        assert GONE[fault] in said.last
        assert "does not answer" in said.last
        assert len(judge.bodies) == 5


def test_no_endpoint_at_all_is_one_line_and_costs_nothing(desk: Desk) -> None:
    with fake_judge() as judge:
        pass
    said = desk.grade(judge, concurrency=1, price_in=1.0, price_out=1.0, limit=1e-9 + 1)
    assert said.code == 7
    assert "no connection" in said.last
    assert "0 of 16 lists are graded" in said.last
    (cache,) = desk.folder.glob(f"runs/assets/judge-*/{ANSWERS}")
    assert {row["lost_in"] for row in rows(cache)} == {0}


@pytest.mark.parametrize(
    "act",
    [
        Act(half=True),
        Act(body="[]"),
        Act(body="null"),
        Act(body='"text"'),
        Act(body='{"choices": []}'),
        Act(body='{"choices": [{"message": {"content": 3}, "finish_reason": "stop"}]}'),
        Act(body='{"choices": [{}]}'),
        Act(body=""),
    ],
)
def test_half_a_body_or_another_one_is_no_answer(desk: Desk, act: Act) -> None:
    with fake_judge(first(1, act), grade=lambda title: 1) as judge:
        said = desk.grade(judge, concurrency=1)
        assert said.code == 7
        assert "no answer: a body that is not as it should be 1" in said.last
        assert desk.grade(judge).code == 0


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refused_key_or_model_ends_at_once_in_one_line(desk: Desk, status: int) -> None:
    echo = json.dumps({"error": {"message": f"bad key {KEY} here"}})
    with fake_judge(always(Act(status=status, body=echo))) as judge:
        said = desk.grade(judge, concurrency=1, retries=3)
        assert said.code == 2
        assert f"status {status}" in said.last
        assert "bad key *** here" in said.last
        assert len(judge.bodies) == 1


def test_a_request_that_is_not_taken_is_told_in_the_words_of_the_endpoint(desk: Desk) -> None:
    echo = json.dumps({"detail": "no response_format here"})
    with fake_judge(always(Act(status=422, body=echo))) as judge:
        said = desk.grade(judge, concurrency=1, retries=3)
    assert said.code == 7
    assert len(judge.bodies) == 5
    assert "status 422 (no response_format here) 5" in said.last
    assert "set grade.answer_format=text" in said.last


def test_requests_go_side_by_side_but_no_more_than_allowed(desk: Desk) -> None:
    gate = threading.Barrier(3)

    def act(number: int, body: dict[str, Any]) -> Act:
        # The first three wait for each other.
        if number < 3:
            gate.wait(100)
        return RIGHT

    with fake_judge(act, grade=lambda title: 1) as judge:
        assert desk.grade(judge, concurrency=3, timeout=200.0).code == 0
        assert judge.most_at_once == 3


def test_the_pace_holds_for_attempts_too(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    import asyncio

    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await sleep(0)

    monkeypatch.setattr("opdcliff.grading.client.asyncio.sleep", note)
    with fake_judge(first(2, FAULTS["asks to wait"]), grade=lambda title: 1) as judge:
        assert desk.grade(judge, per_minute=0.5, concurrency=1, retries=2).code == 0
    # One wait for each attempt, the next 120 s behind the one before.
    assert len([w for w in waits if w > 100 or w <= 0]) >= ALL + 2
    assert max(waits) > 120 * (ALL - 1)


# ---- money ------------------------------------------------------------------------------------

PRICES: dict[str, object] = {"price_in": 10.0, "price_out": 10.0, "answer_tokens": 40}


@pytest.mark.parametrize("concurrency", [1, 4])
def test_no_request_is_begun_that_could_pass_the_limit(desk: Desk, concurrency: int) -> None:
    limit = 0.04
    with fake_judge(grade=lambda title: 1) as judge:
        said = desk.grade(judge, limit=limit, concurrency=concurrency, **PRICES)
        assert said.code == 9
        asked = len(judge.bodies)
        assert 2 < asked < ALL
        assert f"{asked} of {ALL} lists are graded and kept; raise grade.limit" in said.last
        cost = sum(len(m["content"]) // 4 for b in judge.bodies for m in b["messages"])
        cost = 10 * (cost + 20 * asked) / 1e6
        assert limit / 2 < cost <= limit
        # What was spent counts in the next call, which goes no further.
        assert desk.grade(judge, limit=limit, concurrency=concurrency, **PRICES).code == 9
        assert len(judge.bodies) == asked
        assert desk.grade(judge, limit=1.0, concurrency=concurrency, **PRICES).code == 0
        assert len(judge.bodies) == ALL


def test_a_judge_that_does_not_count_its_tokens_is_taken_at_the_most(desk: Desk) -> None:
    with fake_judge(always(Act(usage=False)), grade=lambda title: 1) as judge:
        assert desk.grade(judge, limit=1.0, **PRICES).code == 0
    found = manifest(desk)
    assert found["requests"]["without_a_token_count"] == ALL
    assert found["tokens"]["answered"] == 40 * ALL
    sent = sum(len(m["content"]) for b in judge.bodies for m in b["messages"])
    assert found["tokens"]["sent"] >= sent


def test_thoughts_that_only_the_total_counts_are_paid_for(desk: Desk) -> None:
    with fake_judge(always(Act(thoughts=100)), grade=lambda title: 1) as judge:
        assert desk.grade(judge, **PRICES).code == 0
    assert manifest(desk)["tokens"]["answered"] == 120 * ALL


# ---- keys and files ---------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 7])
def test_the_key_is_in_no_file_and_on_no_line(desk: Desk, code: int) -> None:
    """Not even where the endpoint sends it back."""
    text = None if code == 0 else f"your key is {KEY}"
    with fake_judge(first(1, Act(text=text)), grade=lambda title: 1) as judge:
        said = desk.grade(judge)
        assert said.code == code
        assert judge.keys[0] == f"Bearer {KEY}"
    assert KEY not in said.out + said.err
    assert desk.written()
    for path in desk.written():
        assert KEY.encode() not in path.read_bytes(), path
    if code:
        (cache,) = desk.folder.glob(f"runs/assets/judge-*/{ANSWERS}")
        assert "your key is ***" in cache.read_text()


def test_a_missing_key_is_named_before_anything_is_read(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_judge() as judge:
        monkeypatch.delenv(KEY_VARIABLE)
        said = desk.grade(judge)
        assert said.code == 2
        assert f"grade.key_variable={KEY_VARIABLE}: there is no such environment" in said.last
        assert desk.grade(judge, key_variable=None).code == 0
        assert judge.keys[0] == "Bearer none"


def test_a_key_given_in_place_of_its_name_is_not_repeated(desk: Desk) -> None:
    with fake_judge() as judge:
        said = desk.grade(judge, key_variable=KEY)
    assert said.code == 2
    assert KEY not in said.err
    assert "grade.key_variable is not allowed, and not shown" in said.last


def test_a_file_of_others_is_not_written_over(desk: Desk) -> None:
    file = desk.folder / "mine.jsonl"
    file.write_text("precious\n")
    with fake_judge(grade=lambda title: 1) as judge:
        said = desk.grade(judge, out=file)
        assert said.code == 3
        assert "is there and is not of these lists" in said.last
        assert judge.bodies == []
        assert file.read_text() == "precious\n"
        named = desk.folder / "grades" / "all.jsonl"
        assert desk.grade(judge, out=named).code == 0
        assert len(rows(named)) == 4 * ALL
        # The same settings may; others may not.
        assert desk.grade(judge, out=named).code == 0
        assert desk.grade(judge, "data.seed=1", out=named).code == 3


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["grade.base_url=null"], 2, "grade.base_url is missing"),
        (["grade.model=null"], 2, "grade.model is missing"),
        (["source=tables"], 2, "source=tables is not allowed"),
        (["source=table"], 2, "data.rubric is missing; source=table needs it"),
        (["source=table", "dry_run=true"], 2, "source=table, or dry_run=true"),
        (["data=mini"], 2, "data=mini has no lists of users"),
        (["grade.rubric=none.txt"], 3, "rubric none.txt no such file"),
        (["grade.other=none.jsonl"], 3, "rubric none.jsonl does not exist"),
        (["grade.extra.x=1"], 2, "is added with a plus"),
    ],
)
def test_a_bad_word_is_one_line(desk: Desk, words: list[str], code: int, part: str) -> None:
    with fake_judge(grade=lambda title: 1) as judge:
        said = desk.grade(judge, *words)
        assert judge.bodies == []
    assert said.code == code
    assert part in said.last
