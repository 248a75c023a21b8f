"""Self-play as a user runs it: templates and a generator, filters, rounds that go on, budgets."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from routewright import demo
from routewright.data import outcomes
from routewright.data.journal import read
from routewright.experts.client import Client
from routewright.fitting.fit import fit
from routewright.grading.graders import Graders
from routewright.interview import interview, selfplay
from routewright.interview.overlap import distinct, overlapping
from routewright.router.router import Router
from routewright.sandbox.skills import questions
from routewright.types import Query
from test_interview import serving
from test_report import Page
from upstream import Upstream, wait_until


def asked(n: int, seed: int, path: Path) -> outcomes.Outcomes:
    import asyncio

    items, experts = selfplay.sandbox(n, seed), demo.sandbox_experts()

    async def run():
        async with Client(experts) as client:
            return await interview.Interview(items, experts, client, Graders(["exact"])).run()

    interview.write(items, asyncio.run(run()), path)
    return outcomes.read(path)


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Path:
    """A config of the sandbox, a router fitted on 60 questions, and 120 held-out ones."""
    place = tmp_path_factory.mktemp("begun")
    (place / "routewright.yaml").write_text(demo.CONFIG)
    rows = asked(60, 1, place / "start.parquet")
    fit(rows, encoder="lexical+surface").save(place / "router")
    asked(120, 2, place / "held-out.parquet")
    return place


@pytest.fixture
def place(begun: Path, tmp_path: Path) -> Path:
    return begun


def command(place: Path, out: Path, *options: object) -> list[str]:
    words = ["selfplay", place / "routewright.yaml", place / "router", "--out", out]
    words += ["--queries", 20, "--candidates", 5, "--grader", "exact", "--overlap-cosine", 0.99]
    words += ["--strategy", "single"]
    return [sys.executable, "-m", "routewright.cli.main", *map(str, [*words, *options])]


def play(place: Path, out: Path, *options: object, code: int = 0) -> tuple[list[dict], str]:
    words = command(place, out, "--json", *options)
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr
    return (json.loads(done.stdout) if done.stdout else []), done.stderr


def test_every_round_leaves_queries_table_router_report_and_a_line(place: Path, tmp_path: Path):
    out = tmp_path / "play"
    held_out = place / "held-out.parquet"
    options = ("--templates", "sandbox", "--held-out", held_out, "--split", "all", "--plateau", -1)
    rounds, _ = play(place, out, *options, "--rounds", 1)
    assert [done["rows"] for done in rounds] == [60, 80]
    before = read(out / "journal.jsonl")
    more, _ = play(place, out, *options, "--rounds", 2)
    assert [done["rows"] for done in more] == [60, 80, 100]
    assert more[:2] == rounds
    assert read(out / "journal.jsonl")[: len(before)] == before
    assert all(done["quality"] is not None for done in more)
    for n in (1, 2):
        made = out / f"round-{n}"
        assert Router.load(made / "router").experts == ("abacus", "lexis", "sage")
        assert len(outcomes.read(made / "table.parquet")) == 20
        assert "<html" in (made / "report.html").read_text()
        known = {query.text for query in outcomes.read(held_out).queries}
        chosen = [json.loads(line) for line in (made / "queries.jsonl").read_text().splitlines()]
        assert known.isdisjoint(row["prompt"] for row in chosen)
    assert len((out / "rounds.md").read_text().splitlines()) == 5
    kept = max(more, key=lambda done: done["quality"])
    assert Router.load(out / "router").fact("data", "rows") == kept["rows"]
    assert f"| {kept['number']} (kept) | {kept['rows']} |" in (out / "rounds.md").read_text()
    page = Page((out / "rounds.html").read_text())
    assert not page.fetched
    assert f"{kept['number'] or 'start'} kept {kept['rows']} " in page.text
    assert f"{100 * kept['quality']:.1f} %" in page.text
    low, high = kept["quality_ci"]
    assert low <= kept["quality"] <= high
    assert f"({100 * low:.1f} to {100 * high:.1f})" in page.text
    assert page.tags.count("svg") == 2, "the quality of the rounds, for wide and for narrow pages"


def test_a_grader_that_teaches_nonsense_leaves_the_start_in_force(place: Path, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "def grade(item, answer):\n    return float(answer.strip() != str(item.reference))\n"
    )
    words = command(place, tmp_path / "play", "--templates", "sandbox", "--rounds", 1)
    words = [{"exact": "function=mine:grade", "20": "150"}.get(word, word) for word in words]
    words += ["--held-out", str(place / "held-out.parquet"), "--split", "all"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    rounds = [
        json.loads(line) for line in (tmp_path / "play/rounds.jsonl").read_text().splitlines()
    ]
    assert rounds[1]["quality"] < rounds[0]["quality"] - 0.05
    assert "Kept: the start, with" in done.stdout
    assert "self-play made the router worse on these rows" in done.stdout
    assert Router.load(tmp_path / "play" / "router").fact("data", "rows") == 60


def test_a_round_that_is_killed_goes_on_and_pays_nothing_twice(place: Path, tmp_path: Path):
    out = tmp_path / "play"
    words = command(place, out, "--templates", "sandbox", "--rounds", 1, "--queries", 60)
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    journal = out / "journal.jsonl"
    wait_until(lambda: len(read(journal)) >= 40)
    process.send_signal(signal.SIGKILL)
    process.wait()
    chosen = (out / "round-1" / "queries.jsonl").read_text()
    answered = {event["answered"] for event in read(journal) if "answered" in event}
    assert answered
    rounds, _ = play(place, out, "--templates", "sandbox", "--rounds", 1, "--queries", 60)
    assert (out / "round-1" / "queries.jsonl").read_text() == chosen
    assert rounds[-1]["rows"] == 120
    events = [event["answered"] for event in read(journal) if "answered" in event]
    assert len(events) == len(set(events)) == 180


def test_a_budget_ends_it_and_a_larger_one_finishes_the_round(place: Path, tmp_path: Path):
    out = tmp_path / "play"
    options = ("--templates", "sandbox", "--rounds", 1, "--max-tokens", 16)
    rounds, said = play(place, out, *options, "--budget", 0.0005)
    assert rounds[-1]["stopped"] == "the budget is spent"
    assert rounds[-1]["spent"] <= 0.0005
    assert 60 < rounds[-1]["rows"] <= 80
    assert "budget is spent" in said
    rounds, _ = play(place, out, *options, "--budget", 1)
    assert [done["rows"] for done in rounds] == [60, 80]
    assert rounds[-1]["stopped"] is None


def test_other_settings_in_the_same_folder_are_refused(place: Path, tmp_path: Path):
    out = tmp_path / "play"
    out.mkdir()
    (out / "settings.json").write_text('{"queries": 7}')
    _, said = play(place, out, "--templates", "sandbox", code=2)
    assert "was begun with" in " ".join(said.split())


def writer(body) -> str:
    """A generator that repeats itself, copies an example, and now and then forgets the form."""
    text = body["messages"][-1]["content"]
    if not text.startswith("Write 10 new requests"):
        return "blue" if "colour" in text else "I cannot say"
    if body["seed"] % 5 == 0:
        return "1. What is the colour of a leaf?"
    copied = text.split("repeat none of them:\n")[1].splitlines()[0]
    fresh = [f"Name the colour of thing number {body['seed']}-{n}, please." for n in range(9)]
    return json.dumps([*fresh, json.loads(copied)])


def test_a_generator_writes_and_the_experts_vote(place: Path, tmp_path: Path):
    upstreams = [Upstream(says=writer) for _ in range(4)]
    names = ("abacus", "lexis", "sage", "scribe")
    with serving(*upstreams):
        experts = [u.expert(name) for name, u in zip(names, upstreams, strict=True)]
        config = tmp_path / "routewright.yaml"
        policies = {"default": {"strategy": "fixed", "options": {"expert": "sage"}}}
        config.write_text(yaml.safe_dump({"version": 1, "experts": experts, "policies": policies}))
        words = ["selfplay", config, place / "router", "--out", tmp_path / "play", "--json"]
        words += ["--generator", "scribe", "--grader", "majority", "--rounds", 1, "--queries", 10]
        words += ["--overlap-cosine", 2, "--candidates", 4]
        done = subprocess.run(
            [sys.executable, "-m", "routewright.cli.main", *map(str, words)],
            capture_output=True,
            text=True,
            timeout=600,
        )
    assert done.returncode == 0, done.stderr
    last = json.loads(done.stdout)[-1]
    assert (last["asked"], last["ungraded"], last["rows"]) == (10, 0, 70)
    assert last["repeated"] >= 1, "copies of what people asked must go"
    assert last["proposed"] < 40 + 10, "a malformed reply is no query"
    table = outcomes.read(tmp_path / "play" / "round-1" / "table.parquet")
    assert all("colour" in query.text for query in table.queries)
    assert set(table.score.ravel()) == {1.0}
    prompts = [b["messages"][-1]["content"] for b in upstreams[3].bodies]
    assert any("not clear which of two" in text for text in prompts)


def test_queries_like_a_held_out_one_are_found_by_words_and_by_vectors():
    secret = [Query.of("In which year did the first person walk on the surface of the moon?")]
    copy = Query.of("Tell me: in which year did the first person walk upon Mars?")
    near = Query.of("Which year did a first person walk the surfaces of a moon in?")
    other = Query.of("Who wrote the first dictionary of the English language?")
    by_words = overlapping([copy, near, other], secret, words=8, cosine=2)
    by_vectors = overlapping([copy, near, other], secret, words=20, cosine=0.5)
    assert by_words.tolist() == [True, False, False]
    assert by_vectors.tolist()[1:] == [True, False]
    assert distinct([secret[0], near, other], cosine=0.5) == [0, 2]


def test_the_mix_of_topics_stays_and_what_is_in_doubt_is_asked_more(begun: Path):
    router = Router.load(begun / "router")
    skills = ["addition", "multiplication", "reverse"]
    more = [Query.of(q.text, domain=q.skill) for q in questions(300, 2, skills=skills)]
    unsure = selfplay.doubt(router.predict(more), selfplay.prices_of(router))
    drawn = [selfplay.choose(router, more, 60, explore=0, seed=seed) for seed in range(20)]
    for chosen in drawn:
        assert len(set(chosen)) == 60
        assert Counter(more[i].domain for i in chosen) == dict.fromkeys(skills, 20)
    asked = np.mean([unsure[chosen].mean() for chosen in drawn])
    evenly = np.mean([unsure[selfplay.choose(router, more, 60, explore=1, seed=s)].mean()
                      for s in range(20)])  # fmt: skip
    assert evenly == pytest.approx(unsure.mean(), rel=0.1)
    assert asked > 1.2 * evenly
    nameless = [Query.of(query.text) for query in more]
    assert len(set(selfplay.choose(router, nameless, 60, explore=0.2, seed=0))) == 60


def test_doubt_is_the_expected_regret(router: Router):
    rng = np.random.default_rng(0)
    prediction = router.predict([Query.of("add 3 numbers"), Query.of("reverse a word")])
    told = selfplay.doubt(prediction, [0.0])
    for row in range(2):
        best = np.argsort(-prediction.quality[row])[:2]
        draws = rng.normal(
            prediction.quality[row, best], prediction.spread[row, best], (200_000, 2)
        )
        regret = draws.max(axis=1).mean() - prediction.quality[row, best[0]]
        assert told[row] == pytest.approx(regret, abs=2e-3)


def test_it_stops_where_quality_does_not_rise_any_more():
    rounds = [selfplay.Round(n, quality=q) for n, q in enumerate((0.7, 0.8, 0.801, 0.8015))]
    assert not selfplay.plateau(rounds[:2], 0.005, 2)
    assert not selfplay.plateau(rounds[:3], 0.005, 2)
    assert selfplay.plateau(rounds, 0.005, 2)
