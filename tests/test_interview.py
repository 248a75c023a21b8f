"""`routewright interview` as a user runs it, against servers that count what they are asked."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl
import pytest
import yaml

from routewright.data import outcomes, queries
from routewright.data.journal import read
from routewright.errors import BadTable
from routewright.interview import interview as study
from test_report import Page
from upstream import Busy, Upstream, drop, hang, running, status, wait_until

PROMPTS = [f"What is {n} + {n}?" for n in range(30)]


def right(body) -> str:
    """Knows how to add, and says so in three words."""
    if "Rating" in (text := body["messages"][-1]["content"]):
        return "Fine.\nRating: 10"
    if "Verdict:" in text:
        return "correct"
    return f"It makes {2 * int(text.split()[2])}"


@contextmanager
def serving(*upstreams: Upstream):
    """The upstreams in a thread of their own, so that the command under test may block or die."""
    started, loop, stop = threading.Event(), asyncio.new_event_loop(), asyncio.Event()

    async def serve():
        async with running(*upstreams):
            started.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(600)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(600)


@pytest.fixture
def place(tmp_path: Path):
    rows = [
        {"id": f"q{n}", "prompt": prompt, "reference": str(2 * n), "domain": "sums"}
        for n, prompt in enumerate(PROMPTS)
    ]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    return tmp_path


def configure(place: Path, **upstreams: Upstream) -> None:
    experts = [upstream.expert(name) for name, upstream in upstreams.items()]
    policies = {"default": {"strategy": "single", "router": "not-there-yet"}}
    config = {"version": 1, "experts": experts, "policies": policies}
    (place / "routewright.yaml").write_text(yaml.safe_dump(config))


def command(place: Path, *options: object, **named: object) -> list[str]:
    named = {"out": "t.parquet", "grader": "numeric", **named}
    options_named = ((f"--{key.replace('_', '-')}", str(value)) for key, value in named.items())
    spelt = [word for pair in options_named for word in pair]
    words = ["interview", "routewright.yaml", "q.jsonl", *spelt, *map(str, options)]
    return [sys.executable, "-m", "routewright.cli.main", *words]


def interview(place: Path, *options: object, code: int = 0, **named: object):
    """Runs it to its end; gives its JSON summary and what it said to people."""
    words = command(place, "--json", *options, **named)
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr
    return (json.loads(done.stdout) if done.stdout.strip() else None), done.stderr


def prompts_of(upstream: Upstream) -> Counter[str]:
    return Counter(body["messages"][-1]["content"] for body in upstream.bodies)


def test_answers_can_be_recorded_without_grades(place):
    """The refusal of queries without references names the way, and `fit` takes the table."""
    rows = [json.dumps({"id": f"q{n}", "prompt": prompt}) for n, prompt in enumerate(PROMPTS)]
    (place / "q.jsonl").write_text("\n".join(rows) + "\n")
    upstreams = {name: Upstream(says=right) for name in ("one", "two", "three")}
    with serving(*upstreams.values()):
        configure(place, **upstreams)
        _, refusal = interview(place, code=2, grader="auto")
        assert "--grader unscored records answers only" in refusal
        summary, notes = interview(place, grader="unscored", hold_out=0.2)
        assert "queries are held out.\n" in notes, "what scores would prove is left out"
        assert "needs 3 experts" not in notes
        upstreams.pop("three")
        configure(place, **upstreams)
        _, notes = interview(place, grader="unscored", out="two.parquet")
    assert "without scores, `fit` needs 3 experts" in notes
    assert summary["complete"]
    table = outcomes.read(place / "t.parquet", unscored=True)
    assert table.experts == ("one", "two", "three")
    assert table.answers[3].tolist() == ["It makes 6"] * 3
    with pytest.raises(BadTable, match="no score is known"):
        outcomes.read(place / "t.parquet")


def test_a_report_says_what_every_expert_did_and_what_went_wrong(place):
    good, bad, odd = Upstream(says=right), Upstream(says="no idea"), Upstream(says="<b>2</b>")
    odd.faults = [status(400)] * 2
    with serving(good, bad, odd):
        configure(place, good=good, bad=bad, odd=odd)
        summary, _ = interview(place, html="report.html")
    page = Page((place / "report.html").read_text())
    assert not page.fetched
    assert "script" not in page.tags
    assert "100.0 % (" in page.text
    assert "has good, the best expert" in page.text
    assert f"US$ {summary['cost']:.4f}" in page.text
    assert f"failed {sum(summary['experts']['odd']['failed'].values())}" in page.text
    assert "failed: " in page.text
    assert str(place) not in page.text


def test_every_expert_answers_every_query_and_the_table_can_be_learnt_from(place):
    good, bad = Upstream(says=right), Upstream(says="no idea")
    with serving(good, bad):
        configure(place, good=good, bad=bad)
        summary, _ = interview(place)
    table = outcomes.read(place / "t.parquet")
    assert table.experts == ("good", "bad")
    assert table.score.mean(axis=0).tolist() == [1, 0]
    assert [e["quality"] for e in summary["experts"].values()] == [1, 0]
    assert table.answers[3].tolist() == ["6", "no idea"]
    assert table.cost[:, 0] == pytest.approx([(5 * 1.0 + 3 * 2.0) / 1e6] * 30)
    assert summary["cost"] == pytest.approx(table.cost.sum())
    assert set(prompts_of(good).values()) == {1}
    assert summary["complete"]


def test_a_finished_interview_names_the_next_command(place):
    with serving(good := Upstream(says=right), bad := Upstream(says="no idea")):
        configure(place, good=good, bad=bad)
        done = subprocess.run(command(place), cwd=place, capture_output=True, text=True)
    assert "Next: routewright fit t.parquet --out router" in done.stdout + done.stderr


def test_rows_are_held_out_by_their_words_so_that_a_router_can_be_judged(place):
    expert = Upstream(says=right)
    with serving(expert):
        configure(place, expert=expert)
        interview(place)
        with pytest.raises(BadTable, match=r"no row has split 'dev'; there are train .*--hold-out"):
            outcomes.read(place / "t.parquet", split="dev")
        interview(place, hold_out=0.3)
    judged = outcomes.read(place / "t.parquet", split="dev")
    taught = outcomes.read(place / "t.parquet", split="train")
    assert (len(judged), len(taught)) == (7, 23)
    assert sum(prompts_of(expert).values()) == 30, "the second run paid for nothing again"


def test_a_table_can_be_asked_again_and_is_graded_and_guarded_as_the_queries_were(place):
    told = {"data_class": "internal", "options": {"top_p": 1}, "choices": ["2", "3"]}
    one = {"id": "a", "prompt": "What is 1 + 1?", "reference": ["2", "two"], **told}
    (place / "q.jsonl").write_text(json.dumps(one))
    (item,) = queries.read(place / "q.jsonl")
    interviewed = study.table([item], {("a", "m"): study.Cell(item, "m")})
    outcomes.save(interviewed, place / "t.parquet")
    (again,) = queries.read(place / "t.parquet")
    assert again == replace(item, reference=["2", "two"])


def test_prices_that_are_added_later_count_without_asking_again(place):
    server = Upstream(says=right)
    with serving(server):
        configure(place, small=server)
        config = yaml.safe_load((place / "routewright.yaml").read_text())
        prices = {
            key: config["experts"][0].pop(key) for key in ("input_per_mtok", "output_per_mtok")
        }
        (place / "routewright.yaml").write_text(yaml.safe_dump(config))
        interview(place, "--max-tokens", 10)
        assert pl.read_parquet(place / "t.parquet")["cost::small"].sum() == 0
        asked = server.requests
        config["experts"][0] |= prices
        (place / "routewright.yaml").write_text(yaml.safe_dump(config))
        summary, _ = interview(place, "--max-tokens", 10)
        again, _ = interview(place, "--max-tokens", 10)
    assert server.requests == asked
    assert pl.read_parquet(place / "t.parquet")["cost::small"].min() > 0
    assert summary["cost"] == again["cost"] == 0, "nothing was paid"


def test_after_kill_9_nothing_in_the_journal_is_asked_again_and_the_budget_holds(place):
    """Twenty are answered, and the others hang until the process is dead."""

    async def among_the_first(upstream, request, body):
        alive = first.requests + second.requests <= 20
        return await (upstream.answer if alive else partial(hang, upstream))(request, body)

    first, second = (Upstream(says=right, faults=[among_the_first] * 60) for _ in range(2))
    budget = 0.0009
    with serving(first, second):
        configure(place, first=first, second=second)
        words = command(place, "--max-tokens", 10, budget=budget)
        process = subprocess.Popen(words, cwd=place, stderr=subprocess.DEVNULL)
        wait_until(lambda: first.finished + second.finished == 20)
        process.kill()
        process.wait()
        first.faults, second.faults = [], []
        events = read(place / "t.journal.jsonl")
        answered = {event["answered"] for event in events if "answered" in event}
        lost = [event for event in events if "asked" in event and event["asked"] not in answered]
        assert 10 <= len(answered) <= 20
        assert len(lost) <= 8, "more in flight than may be under way at once"
        asked_before = first.requests + second.requests
        summary, said = interview(place, "--max-tokens", 10, budget=budget)
        asked_after = first.requests + second.requests - asked_before
    assert summary["from_journal"] == len(answered)
    assert asked_after == summary["asked"]
    for upstream in (first, second):
        twice = sum(count - 1 for count in prompts_of(upstream).values())
        assert twice <= len(lost), "something that was answered was asked again"
    paid = sum(11 / 1e6 for _ in range(first.finished + second.finished))
    assert summary["cost_unsure"] == pytest.approx(sum(event["bound"] for event in lost))
    assert summary["cost"] + summary["cost_unsure"] <= budget
    assert paid <= budget
    assert "may have cost up to" in said or not lost


def test_ctrl_c_waits_for_what_is_under_way_and_says_how_to_go_on(place):
    slow = Upstream(says=right, delay=0.2)
    with serving(slow):
        configure(place, slow=slow)
        words = command(place)
        process = subprocess.Popen(words, cwd=place, stderr=subprocess.PIPE, text=True)
        while slow.finished < 5:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=600)
        assert process.returncode == 130
        assert "run the same command again" in said
        assert slow.requests == slow.finished < 30, "an answer under way was thrown away"
        partly = outcomes.read(place / "t.parquet")
        assert (partly.score[:, 0] == 1).sum() == slow.finished
        summary, _ = interview(place)
    assert summary["complete"]
    assert set(prompts_of(slow).values()) == {1}


def test_a_spent_budget_ends_the_run_and_a_larger_one_goes_on(place):
    upstream = Upstream(says=right)
    with serving(upstream):
        configure(place, small=upstream)
        summary, said = interview(place, "--max-tokens", 20, budget=0.0003)
        assert 0 < summary["asked"] < 30
        assert summary["cost"] <= 0.0003
        assert "larger --budget" in said
        again, _ = interview(place, "--max-tokens", 20, budget=0.01)
    assert again["complete"]
    assert set(prompts_of(upstream).values()) == {1}


def test_a_dry_run_asks_nobody_and_its_bound_holds(place):
    upstream = Upstream(says=right)
    with serving(upstream):
        configure(place, small=upstream)
        told, _ = interview(place, "--dry-run", "--verify", 2, "--samples", 3)
        assert upstream.requests == 0
        assert told["experts"]["small"]["asks"] == 30 * 6
        summary, _ = interview(place, "--verify", 2, "--samples", 3)
        assert 0 < told["cost"] <= told["cost_at_most"]
        assert summary["cost"] <= told["cost_at_most"]
        after, _ = interview(place, "--dry-run", "--verify", 2, "--samples", 3)
    assert after["experts"]["small"]["in_journal"] == 30 * 6
    assert (after["cost"], after["spent"]) == (0, summary["cost"])


def test_a_dry_run_says_what_its_minutes_are_estimated_from(routewright, tmp_path):
    rows = [{"prompt": f"{n} + {n}?", "reference": str(2 * n)} for n in range(90)]
    (tmp_path / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = tmp_path / "routewright.yaml"
    entry = "{name: %s, base_url: 'http://127.0.0.1:9/v1', latency: %d}"
    config.write_text(f"version: 1\nexperts: [{entry % ('a', 1)}, {entry % ('b', 10)}]\n")
    words = ("interview", config, tmp_path / "q.jsonl", "--out", tmp_path / "o.parquet")
    code, shown, _ = routewright(*words, "--dry-run")
    shown = " ".join(shown.split())
    assert (code, "About 3.8 minutes, that of the slowest expert" in shown) == (0, True), shown
    assert "without any, 250 tokens long, at 50 tokens a second or the config's `latency`" in shown


def test_a_log_probability_that_is_no_number_is_not_taken_for_certainty(place):
    told = {"unsure": -0.5, "above": 0.1, "absurd": -1e9, "mute": None}
    upstreams = {name: Upstream(says=right, logprob=value) for name, value in told.items()}
    with serving(*upstreams.values()):
        configure(place, **upstreams)
        interview(place, "--logprobs", limit=1)
    [row] = pl.read_parquet(place / "t.parquet").to_dicts()
    assert [row.get(f"logprob::{name}") for name in told] == [-0.5, 0.0, None, None]


def test_verdicts_that_nobody_can_read_are_recorded_with_their_cost(place):
    def mute(body) -> str:
        return "Hm." if "Verdict" in str(body["messages"]) else right(body)

    upstream = Upstream(says=mute)
    with serving(upstream):
        configure(place, small=upstream)
        interview(place, "--verify", 2)
    table = outcomes.read(place / "t.parquet")
    assert upstream.requests == 30 * 3
    assert "verify" not in table.measures
    assert set(table.measures["verdicts"][:, 0]) == {2.0}
    assert (table.measures["verify_cost"] > 0).all()
    check = table.record(0)["small", "verify"]
    assert (check.confidence, check.cost) == (None, table.measures["verify_cost"][0, 0])


def test_verifications_and_samples_become_columns(place):
    def unsteady(body) -> str:
        return "no idea" if body.get("seed") == 2 else right(body)

    upstream = Upstream(says=unsteady)
    with serving(upstream):
        configure(place, small=upstream)
        interview(place, "--verify", 1, "--samples", 4)
    table = outcomes.read(place / "t.parquet")
    assert set(table.measures["soft"][:, 0]) == {0.75}
    assert set(table.measures["verify"][:, 0]) == {1.0}
    assert (table.measures["verify_cost"] > 0).all()
    assert upstream.requests == 30 * 6


def test_only_one_expert_is_asked_and_the_others_answers_stay_in_the_table(place):
    old, new = Upstream(says=right), Upstream(says=right)
    with serving(old, new):
        configure(place, old=old)
        interview(place)
        configure(place, old=old, new=new)
        interview(place, only="new")
    assert (old.requests, new.requests) == (30, 30)
    assert outcomes.read(place / "t.parquet").experts == ("old", "new")


def test_a_judge_is_paid_from_the_same_budget_and_never_twice(place):
    expert, judge = Upstream(says=right), Upstream(says=right)
    with serving(expert, judge):
        configure(place, small=expert, umpire=judge)
        summary, _ = interview(place, only="small", grader="judge=umpire")
        assert judge.requests == 30
        again, _ = interview(place, only="small", grader="judge=umpire")
    assert judge.requests == 30
    assert summary["experts"]["small"]["quality"] == 1.0
    assert again["asked"] == 0
    table = outcomes.read(place / "t.parquet")
    assert summary["cost"] > table.cost[:, 0].sum(), "the judge's work costs too"


def test_what_could_not_be_graded_or_failed_is_counted_and_asked_again(place):
    vague = Upstream(says=lambda body: "3,5" if "29 +" in str(body) else right(body))
    vague.faults = [status(400, "too long")] + [drop] * 3
    with serving(vague):
        configure(place, vague=vague)
        summary, said = interview(place, "--concurrency", 1)
        facts = summary["experts"]["vague"]
        assert facts["ungraded"] == {"its number cannot be read": 1}
        assert sum(facts["failed"].values()) == 2
        assert "too long" in said
        again, _ = interview(place)
    assert again["experts"]["vague"]["failed"] == {}
    frame = pl.read_parquet(place / "t.parquet")
    assert frame["score::vague"].null_count() == 1


def test_an_expert_that_only_fails_is_left_alone(place):
    dead, good = Upstream(faults=[status(401, "bad key")] * 99), Upstream(says=right)
    with serving(dead, good):
        configure(place, dead=dead, good=good)
        summary, said = interview(place)
    assert dead.requests <= 12
    assert "bad key" in summary["left_out"]["dead"]
    assert summary["experts"]["good"]["answers"] == 30
    assert "left out" in said


def test_where_nobody_answers_there_is_no_table_and_the_exit_code_says_so(place):
    dead = Upstream(faults=[status(401, "bad key")] * 99)
    with serving(dead):
        configure(place, dead=dead)
        summary, said = interview(place, code=2)
    assert "bad key" in summary["left_out"]["dead"]
    assert "no expert answered any query" in said
    assert not (place / "t.parquet").exists()


def test_an_expert_that_is_busy_is_left_alone_for_as_long_as_it_says(place):
    busy = Busy(2.0)
    expert = Upstream(says=lambda body: right(body) if busy.over else "too early", faults=[busy])
    with serving(expert):
        configure(place, busy=expert)
        summary, _ = interview(place, concurrency=1)
    assert summary["experts"]["busy"]["answers"] == 30
    assert summary["experts"]["busy"]["quality"] == 1, "it was not asked too early"


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("q.jsonl", '{"id": 1}', "line 1 has neither `prompt` nor `messages`"),
        ("q.jsonl", '{"prompt": "a"}\n{"prompt": "a"}', "line 2 and 'q.jsonl' line 1"),
        ("q.jsonl", "{", "line 1 is not JSON"),
        ("q.jsonl", "", "has no queries"),
        ("q.jsonl", '{"prompt": "a", "data_class": "secret"}', "data class 'secret'"),
        ("q.jsonl", '{"prompt": "a", "grader": "code"}', "allow it with --grader code"),
        ("q.csv", "prompt\na,b", "more cells"),
        ("q.txt", "hello", "must end in .jsonl"),
    ],
)
def test_query_sets_that_cannot_be_used_are_refused_before_anything_is_asked(
    place, name, text, complaint
):
    upstream = Upstream()
    (place / name).write_text(text)
    with serving(upstream):
        configure(place, small=upstream)
        words = [name if word == "q.jsonl" else word for word in command(place)]
        done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert complaint in " ".join(done.stderr.split())
    assert upstream.requests == 0
    assert "Traceback" not in done.stderr


def test_a_table_that_is_not_ours_is_not_written_over(place):
    (place / "t.parquet").write_bytes(b"precious")
    configure(place, small=Upstream())
    _, said = interview(place, code=2)
    assert "name another --out" in " ".join(said.split())
    assert (place / "t.parquet").read_bytes() == b"precious"


def test_a_chat_reaches_the_expert_as_it_is_and_again_from_the_table(place):
    """A system message stays one, a name stays, and what was asked before is not paid again."""
    system = [{"role": "system", "content": "What is 1 + 1?"}]
    named = [{"role": "user", "content": "What is 2 + 2?", "name": "ann"}]
    rows = [
        {"id": "a", "messages": system, "reference": "2"},
        {"id": "b", "messages": named, "reference": "4"},
    ]
    (place / "q.jsonl").write_text("\n".join(map(json.dumps, rows)))
    expert = Upstream(says=right)
    with serving(expert):
        configure(place, expert=expert)
        interview(place)
        (place / "q.jsonl").write_text("")
        (place / "t.parquet").rename(place / "again.parquet")
        words = [word if word != "q.jsonl" else "again.parquet" for word in command(place)]
        done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert sorted(body["messages"][0]["role"] for body in expert.bodies) == ["system", "user"]
    assert named in [body["messages"] for body in expert.bodies]
    asked = [list(item.query.messages) for item in queries.read(place / "again.parquet")]
    assert asked == [system, named]


def test_restricted_queries_reach_only_experts_that_may_see_them(place):
    (place / "q.jsonl").write_text(
        '{"id": "a", "prompt": "What is 1 + 1?", "reference": 2, "data_class": "restricted"}'
    )
    local, cloud = Upstream(says=right), Upstream(says=right)
    with serving(local, cloud):
        configure(place, local=local, cloud=cloud)
        config = yaml.safe_load((place / "routewright.yaml").read_text())
        config["experts"][0]["data_classes"] = ["public", "restricted"]
        (place / "routewright.yaml").write_text(yaml.safe_dump(config))
        summary, _ = interview(place)
    assert (local.requests, cloud.requests) == (1, 0)
    assert "restricted" in next(iter(summary["experts"]["cloud"]["failed"]))


def test_a_table_remembers_that_its_queries_are_restricted(place):
    """Neither a judge nor a tagger that may not see a query sees it because it is in a table."""
    (place / "q.jsonl").write_text(
        '{"id": "a", "prompt": "What is 1 + 1?", "reference": 2, "data_class": "restricted"}\n'
        '{"id": "b", "prompt": "What is 2 + 1?", "reference": 3}\n'
    )
    local, cloud = Upstream(says=right), Upstream(says="Rating: 7")
    verbs = (["reward", "--model", "judge=cloud"], ["tag", "--expert", "cloud"])
    with serving(local, cloud):
        configure(place, local=local, cloud=cloud)
        config = yaml.safe_load((place / "routewright.yaml").read_text())
        config["experts"][0]["data_classes"] = ["public", "restricted"]
        config["policies"]["default"] = {"strategy": "fixed", "options": {"expert": "local"}}
        (place / "routewright.yaml").write_text(yaml.safe_dump(config))
        interview(place, "--only", "local")
        for verb, *options in verbs:
            words = [sys.executable, "-m", "routewright.cli.main", verb, "t.parquet", *options]
            words += ["--config", "routewright.yaml", "--out", f"{verb}.parquet"]
            done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=600)
            assert "restricted" in done.stdout + done.stderr
    told = json.dumps(cloud.bodies)
    assert (cloud.requests, "2 + 1" in told, "1 + 1" in told) == (2, True, False)


def chatty(body) -> str:
    """Knows how to add, and says so as chat models do."""
    numbers = body["messages"][-1]["content"].split()
    total = 2 * int(numbers[2])
    return f"{numbers[2]} + {numbers[2]} = {total}. The answer is **{total}**."


def test_by_default_chatty_answers_are_graded_by_their_references(place):
    with serving(small := Upstream(chatty)):
        configure(place, small=small)
        words = [word for word in command(place, "--json") if word not in ("--grader", "numeric")]
        done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=600)
    summary = json.loads(done.stdout)
    assert "numeric grades 30 rows" in done.stderr
    assert summary["experts"]["small"]["quality"] == 1
    assert summary["experts"]["small"]["audit"]["missed"] == []


def test_a_grader_that_does_not_fit_is_warned_of_and_grading_again_is_free(place):
    with serving(small := Upstream(chatty)):
        configure(place, small=small)
        summary, said = interview(place, grader="exact")
    assert summary["experts"]["small"]["quality"] == 0
    assert "small: 30 of 30 answers have their reference" in said
    asked = len(small.bodies)
    words = [sys.executable, "-m", "routewright.cli.main", "regrade", "t.parquet", "--json"]
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=600)
    assert json.loads(done.stdout)["experts"]["small"]["quality"] == 1
    assert len(small.bodies) == asked


def test_queries_that_nobody_can_grade_are_refused_before_anybody_is_asked(place):
    (place / "q.jsonl").write_text(json.dumps({"id": "1", "prompt": "Tell a joke."}) + "\n")
    with serving(small := Upstream(right)):
        configure(place, small=small)
        for option in ((), ("--dry-run",)):
            _, said = interview(place, *option, grader="auto", code=2)
            assert "--grader judge=EXPERT" in said
    assert not small.bodies


def test_an_expert_that_is_down_is_named_before_the_others_get_a_second_query(place):
    with serving(small := Upstream(right), large := Upstream(status(500))):
        configure(place, small=small, large=large)
        _, said = interview(place)
    assert said.index("large did not answer the first query") < said.index("large: left out")
    assert "Warning: large gave no answer at all, so the table knows nothing" in said
    assert "or fit without it (--experts small)" in said
    assert len(small.bodies) == 30


def test_a_run_in_which_nothing_could_be_graded_says_so_and_keeps_the_answers(place):
    (place / "mine.py").write_text("def grade(item, answer):\n    return None\n")
    with serving(small := Upstream(right)):
        configure(place, small=small)
        _, said = interview(place, grader="function=mine:grade", code=2)
    assert "routewright regrade" in said
    assert len(pl.read_parquet(place / "t.parquet")) == 30


def test_an_error_in_a_function_of_yours_stops_the_run_at_once(place):
    (place / "mine.py").write_text("def grade(item, answer):\n    raise KeyError('oh')\n")
    with serving(small := Upstream(right)):
        configure(place, small=small)
        _, said = interview(place, grader="function=mine:grade", code=2)
    assert "failed on query" in said
    assert "Traceback" not in said
    assert len(small.bodies) < 30
