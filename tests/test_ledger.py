"""The journal and the ledger: nothing paid twice, no budget exceeded, at the upstream's pace."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest

from routewright.data.journal import Journal, read
from routewright.drive import decide
from routewright.errors import BadInput, DeadlineExceeded, UpstreamError
from routewright.experts.ledger import BudgetSpent, Ledger
from routewright.strategies.fixed import Fixed
from routewright.types import Ask, Query
from upstream import Busy, Upstream, drop, expert, hang, running, status

QUERIES = [Query.of(f"question number {n}", options={"max_tokens": 10}) for n in range(12)]


def ask_all(upstream, path, queries=QUERIES, side_by_side=4, traits=None, **settings):
    """The answers or errors, in order, and the account."""

    async def run():
        async with running(upstream):
            who = expert(upstream.expert("small", **(traits or {})))
            with Journal(path) as journal:
                async with Ledger([who], journal, **settings) as ledger:
                    turn = asyncio.Semaphore(side_by_side)

                    async def one(query):
                        async with turn:
                            return await decide(Fixed("small"), query, [who], ledger)

                    work = [one(query) for query in queries]
                    return await asyncio.gather(*work, return_exceptions=True), ledger.account

    return asyncio.run(run())


# --- the journal ---------------------------------------------------------------------------


def test_a_last_line_that_a_crash_cut_off_is_dropped_and_written_over(tmp_path: Path):
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":2}\n{"a":')
    assert read(path) == [{"a": 1}, {"a": 2}]
    with Journal(path) as journal:
        assert journal.entries == [{"a": 1}, {"a": 2}]
        journal.write(a=3)
    assert path.read_bytes() == b'{"a":1}\n{"a":2}\n{"a":3}\n'


def test_a_line_broken_in_the_middle_is_told_with_its_number(tmp_path: Path):
    path = tmp_path / "j.jsonl"
    path.write_bytes(b'{"a":1}\n{"a":\n{"a":3}\n')
    with pytest.raises(BadInput, match="line 2 is damaged"):
        Journal(path)


def test_two_processes_cannot_write_to_the_same_journal(tmp_path: Path):
    with (
        Journal(tmp_path / "j.jsonl"),
        pytest.raises(BadInput, match="another process is writing"),
    ):
        Journal(tmp_path / "j.jsonl")


# --- asking through it ---------------------------------------------------------------------


def test_what_is_in_the_journal_is_not_asked_again(tmp_path: Path):
    path, upstream = tmp_path / "j.jsonl", Upstream(says="two words")
    first, account = ask_all(upstream, path)
    assert (upstream.requests, account.asked, account.recalled) == (12, 12, 0)
    second, again = ask_all(upstream, path)
    assert (upstream.requests, again.asked, again.recalled) == (12, 0, 12)
    assert [d.answer.text for d in second] == [d.answer.text for d in first]
    assert again.spent == pytest.approx(account.spent) == sum(d.cost for d in first)


def test_a_journal_of_an_earlier_release_is_read(tmp_path: Path):
    path, upstream = tmp_path / "j.jsonl", Upstream(says="two words")
    _, account = ask_all(upstream, path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line.get("answer", {}).update(deferred=False)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    answers, again = ask_all(upstream, path)
    assert {decision.answer.text for decision in answers} == {"two words"}
    assert (upstream.requests, again.spent) == (12, pytest.approx(account.spent))


def test_other_words_or_options_are_another_ask(tmp_path: Path):
    path, upstream = tmp_path / "j.jsonl", Upstream()
    ask_all(upstream, path, QUERIES[:1])
    ask_all(upstream, path, [Query.of("question number 0", options={"max_tokens": 11})])
    ask_all(upstream, path, QUERIES[:1], traits={"options": {"temperature": 0}})
    assert upstream.requests == 3


def test_the_same_words_asked_side_by_side_are_paid_for_once(tmp_path: Path):
    upstream = Upstream(delay=0.05)
    answers, _ = ask_all(upstream, tmp_path / "j.jsonl", [QUERIES[0]] * 4)
    assert upstream.requests == 1
    assert {d.answer.text for d in answers} == {"hello there"}


@pytest.mark.parametrize("side_by_side", [1, 4, 12])
def test_a_budget_is_never_exceeded_and_used_as_far_as_it_goes(tmp_path: Path, side_by_side: int):
    upstream = Upstream(says="one two three four five", delay=0.01)
    each = (3 * 1.0 + 5 * 2.0) / 1e6
    answers, account = ask_all(
        upstream, tmp_path / "j.jsonl", side_by_side=side_by_side, budget=20 * each
    )
    got = [a for a in answers if not isinstance(a, Exception)]
    assert all(isinstance(a, BudgetSpent) for a in answers if a not in got)
    assert account.spent == pytest.approx(len(got) * each)
    assert account.spent <= 20 * each
    bound = 20 * each - account.spent
    assert len(got) == 12 or bound < 100 / 1e6, "money was left that would have bought an answer"
    assert 0 < upstream.requests == len(got)


def test_a_budget_counts_what_earlier_runs_spent(tmp_path: Path):
    path, upstream = tmp_path / "j.jsonl", Upstream(says="one two three four five")
    _, account = ask_all(upstream, path, QUERIES[:6])
    answers, after = ask_all(upstream, path, budget=account.spent + 1e-9)
    assert [isinstance(a, BudgetSpent) for a in answers] == [False] * 6 + [True] * 6
    assert (upstream.requests, after.spent) == (6, account.spent)


def test_an_ask_without_an_end_in_the_journal_counts_at_its_bound(tmp_path: Path):
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.write(asked="lost", expert="small", kind="answer", bound=0.5)
    answers, account = ask_all(Upstream(), path, QUERIES[:1], budget=0.5)
    assert isinstance(answers[0], BudgetSpent)
    assert (account.spent, account.unsure) == (0.0, 0.5)


def test_a_budget_without_a_bound_is_refused(tmp_path: Path):
    answers, _ = ask_all(Upstream(), tmp_path / "j.jsonl", [Query.of("hi")], budget=1.0)
    assert "max_tokens" in str(answers[0])
    free, account = ask_all(Upstream(), tmp_path / "k.jsonl", [Query.of("hi")])
    assert free[0].answer.text == "hello there"
    assert account.spent > 0


def test_an_expert_that_is_busy_is_left_alone_as_long_as_it_says(tmp_path: Path):
    busy = Busy(1.0)
    upstream = Upstream(says=lambda body: "rested" if busy.over else "too early", faults=[busy])
    answers, account = ask_all(
        upstream, tmp_path / "j.jsonl", side_by_side=1, traits={"retries": 0}
    )
    assert [decision.answer.text for decision in answers] == ["rested"] * 12
    assert upstream.requests == 13
    assert account.unsure == 0


def test_a_connection_that_breaks_is_tried_again_and_may_have_cost_its_bound(tmp_path: Path):
    path, upstream = tmp_path / "j.jsonl", Upstream(faults=[drop])
    answers, account = ask_all(upstream, path, QUERIES[:1])
    assert answers[0].answer.text == "hello there"
    assert account.unsure == pytest.approx(next(e["bound"] for e in read(path)))
    assert upstream.requests == 2


def test_an_ask_that_a_deadline_cancels_counts_at_its_bound(tmp_path: Path):
    """Nobody knows how much of it the expert had written; the next run does not either."""
    path, upstream = tmp_path / "j.jsonl", Upstream(faults=[hang])
    hurried = replace(QUERIES[0], max_latency=0.2)
    budget = 1.2e-4  # enough for one such ask, and not for two
    (late, refused), account = ask_all(
        upstream, path, [hurried, QUERIES[1]], side_by_side=1, budget=budget
    )
    assert isinstance(late, DeadlineExceeded)
    assert isinstance(refused, BudgetSpent)
    (bound,) = [event["bound"] for event in read(path)]
    assert bound < budget < 2 * bound
    assert (account.spent, account.unsure, account.reserved) == (0, pytest.approx(bound), 0)
    [again], account = ask_all(upstream, path, [QUERIES[1]], budget=budget)
    assert isinstance(again, BudgetSpent)
    assert account.unsure == pytest.approx(bound)
    assert upstream.requests <= 1


def test_failures_are_told_and_tried_anew_by_the_next_run(tmp_path: Path):
    path, upstream = tmp_path / "j.jsonl", Upstream(faults=[status(401, "bad key")])
    answers, account = ask_all(upstream, path, QUERIES[:1])
    assert isinstance(answers[0], UpstreamError)
    assert "bad key" in str(answers[0])
    assert account.committed == 0
    answers, _ = ask_all(upstream, path, QUERIES[:1])
    assert answers[0].answer.text == "hello there"


def test_the_reserved_bound_holds_for_any_text(tmp_path: Path):
    texts = ["", "x" * 50, "首都は？ 🙂 " * 20, '"quotes" \\ and\nlines' * 9]
    upstream = Upstream(says="word " * 50)
    queries = [Query.of(text, options={"max_tokens": 7}) for text in texts]
    ask_all(upstream, tmp_path / "j.jsonl", queries)
    events = read(tmp_path / "j.jsonl")
    bounds = {e["asked"]: e["bound"] for e in events if "asked" in e}
    costs = {e["answered"]: e["answer"]["cost"] for e in events if "answered" in e}
    assert len(costs) == 4
    assert all(costs[key] <= bounds[key] for key in costs)
    assert json.dumps(events)


def test_a_verification_is_remembered_with_its_confidence(tmp_path: Path):
    upstream, path = Upstream(says="correct"), tmp_path / "j.jsonl"

    async def run():
        async with running(upstream):
            who = expert(upstream.expert("small"))
            with Journal(path) as journal:
                async with Ledger([who], journal) as ledger:
                    said = await ledger.ask(Ask("small"), QUERIES[0])
                    return await ledger.ask(Ask("small", "verify", of=said, sample=1), QUERIES[0])

    first, second = asyncio.run(run()), asyncio.run(run())
    assert first.confidence == second.confidence == 1.0
    assert (first.kind, second.kind) == ("verify", "verify")
    assert upstream.requests == 2
