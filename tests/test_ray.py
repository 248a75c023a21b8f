"""`--engine ray` on a cluster of two processes of this machine."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import psutil
import pytest
from polars.testing import assert_frame_equal
from typer.testing import CliRunner

import extras
from routewright import parallel
from routewright.cli.main import app
from routewright.data.journal import read
from routewright.errors import BadInput
from routewright.router.router import Router
from routewright.types import Query
from tables import table, write
from test_interview import command, configure, interview, place, prompts_of, right, serving
from upstream import Upstream, hang, wait_until

extras.require("ray", "needs the extra `ray`")

assert place  # a fixture


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Two workers, to which the commands under test connect."""
    import ray

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    yield
    del os.environ["RAY_ADDRESS"]
    ray.shutdown()


def rows(path: Path) -> pl.DataFrame:
    """What does not depend on the clock."""
    frame = pl.read_parquet(path)
    return frame.select(c for c in frame.columns if not c.startswith("latency::"))


def workers() -> list[psutil.Process]:
    """Processes of the cluster that interview just now."""
    found = psutil.Process().children(recursive=True)
    return [p for p in found if p.is_running() and p.name().startswith("ray::MapBatches")]


def test_the_rows_are_those_of_the_local_engine_and_either_goes_on_for_the_other(place):
    good, bad = Upstream(says=right), Upstream(says="no idea")
    with serving(good, bad):
        configure(place, good=good, bad=bad)
        here, _ = interview(place, "--verify", 1, "--samples", 1, out="here.parquet")
        there, _ = interview(place, "--verify", 1, "--samples", 1, "--engine", "ray")
        assert rows(place / "t.parquet").equals(rows(place / "here.parquet"))
        asked = good.requests + bad.requests
        again, _ = interview(place, "--verify", 1, "--samples", 1)
        assert good.requests + bad.requests == asked
    same = ("queries", "complete", "stopped", "left_out", "cost_unsure")
    assert [here[key] for key in same] == [there[key] for key in same]
    assert there["cost"] == pytest.approx(here["cost"])
    assert (there["asked"], there["from_journal"], again["asked"]) == (here["asked"], 0, 0)


def test_prices_that_are_added_later_reach_answers_of_the_journal_too(place):
    with serving(server := Upstream(says=right)):
        configure(place, small=server)
        config = place / "routewright.yaml"
        priced = config.read_text()
        config.write_text(re.sub(r"\b(in|out)put_per_mtok: [\d.]+,?", "", priced))
        interview(place, "--max-tokens", 10)
        assert rows(place / "t.parquet")["cost::small"].sum() == 0
        asked = server.requests
        config.write_text(priced)
        interview(place, "--max-tokens", 10, "--engine", "ray")
    assert server.requests == asked
    assert rows(place / "t.parquet")["cost::small"].min() > 0


def test_a_worker_that_is_killed_half_way_loses_nothing(place):
    """The expert answers six, and hangs until the worker is dead."""
    expert = Upstream(says=right)
    with serving(expert):
        configure(place, expert=expert)
        interview(place, out="here.parquet", concurrency=30)
        expert.bodies.clear()
        expert.finished, expert.faults = 0, [None] * 6 + [hang] * 24
        words = command(place, "--json", "--engine", "ray", concurrency=2)
        process = subprocess.Popen(words, cwd=place, stdout=subprocess.DEVNULL)
        wait_until(lambda: expert.finished == 6 and expert.requests == 8)
        [victim] = workers()
        victim.kill()
        expert.faults = []
        assert process.wait(240) == 0
    assert rows(place / "t.parquet").equals(rows(place / "here.parquet"))
    events = read(place / "t.journal.jsonl")
    answered = [event["answered"] for event in events if "answered" in event]
    assert len(answered) == len(set(answered)) == 30
    lost = sum("asked" in event for event in events) - 30
    assert 1 <= lost <= 2, "what was under way, and no more, is asked again"
    assert sum(prompts_of(expert).values()) <= 30 + lost


def test_all_workers_together_keep_the_budget(place):
    expert = Upstream(says=right)
    budget = 0.0004
    with serving(expert):
        configure(place, expert=expert)
        summary, said = interview(place, "--max-tokens", 10, "--engine", "ray", budget=budget)
    assert 0 < expert.finished < 30
    assert expert.finished * 11e-6 == pytest.approx(summary["cost"])
    assert summary["cost"] <= budget
    assert summary["out_of_money"]
    assert not summary["complete"]
    assert "with a larger --budget" in said


def test_a_mistake_on_the_cluster_reads_as_it_does_here(place):
    expert = Upstream()
    with serving(expert):
        configure(place, expert=expert)
        (place / "t.journal.jsonl").write_text("damaged\n")
        _, said = interview(place, "--engine", "ray", code=2)
        assert "line 1 is damaged" in said
        _, said = interview(place, "--engine", "spark", code=2)
        assert "choose one of local, ray" in said


def test_parts_come_back_whole_and_mistakes_are_raised():
    numbers = list(range(100))
    squares = parallel.stacked(lambda part: np.array(part) ** 2, numbers, "ray")
    assert squares.tolist() == [n * n for n in numbers]

    def refuse(part):
        raise BadInput("not this one")

    with pytest.raises(BadInput, match="not this one"):
        list(parallel.spread(refuse, [[1]], "ray"))


def run(*words: object) -> str:
    """The command in this process, which is connected to the cluster."""
    done = CliRunner().invoke(app, [*map(str, words)])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_encoding_rewards_and_batch_routing_give_what_they_give_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = table(200).with_columns(pl.col("prompt").alias("text::sage"))
    outcomes = write(tmp_path, frame)
    (tmp_path / "mine.py").write_text("def length(query, answer):\n    return float(len(answer))\n")
    for engine in parallel.ENGINES:
        where = ("--engine", engine, "--out")
        run("fit", outcomes, "--strategy", "single", *where, engine)
        run("reward", outcomes, "--model", "function=mine.py:length", *where,
            f"{engine}-rated.parquet")  # fmt: skip
        run("route", "local", "--queries", outcomes, "--lambda", 5000, *where,
            f"{engine}-routed.parquet")  # fmt: skip
    asked = [Query.of(text, domain="sums") for text in frame["prompt"][:20]]
    routers = [Router.load(tmp_path / engine) for engine in parallel.ENGINES]
    encode = routers[0].encoder.encode
    here, there = (parallel.stacked(encode, asked, engine) for engine in parallel.ENGINES)
    assert here == pytest.approx(there, abs=1e-9)
    here, there = (router.predict(asked).quality for router in routers)
    assert here == pytest.approx(there, abs=0.01)  # trees make more of the last digits
    for made in ("rated", "routed"):
        here, there = (pl.read_parquet(tmp_path / f"{e}-{made}.parquet") for e in parallel.ENGINES)
        assert_frame_equal(here, there)  # but for the last digits of a product
        assert len(here) == 200
    alone = run(
        "route", "local", frame["prompt"][0], "--domain", frame["domain"][0], "--lambda", 5000
    )
    assert there["expert"][0] == alone.strip()
    assert there["expert"].n_unique() > 1
