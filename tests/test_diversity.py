"""Training sets without overlaps, duplicates and crowds, and tags that mean one thing each."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from routewright.cli.main import app
from routewright.data import outcomes
from routewright.data import queries as query_sets
from routewright.data.journal import Journal
from routewright.errors import BadInput
from routewright.interview import diversity, overlap, tagging
from routewright.types import Expert, Query
from tables import table, write
from upstream import Upstream, expert, running, status

TEST = "Tom buys three apples and pays two dollars for each of them at the market."


# --- diversify -----------------------------------------------------------------------------


def kept(texts, held_out=(), **settings):
    """Which of the texts stay; tags are no limit."""
    told = [list(map(Query.of, some)) for some in (texts, held_out)]
    return diversity.diversify(told[0], [()] * len(texts), told[1], **settings)


def test_a_query_that_shares_six_words_with_the_test_is_dropped_and_one_with_five_stays():
    six = "Yesterday: PAYS two dollars, for each of his eggs!"
    five = "She pays two dollars for each pear."
    assert kept([six, five, TEST], [TEST]).rows == (1,)
    assert kept([five], [TEST], words=5).rows == ()


def test_short_queries_overlap_only_if_they_are_the_same():
    assert kept(["What is 2 + 2?", "What is 2 + 3?"], ["what is 2+2"]).rows == (1,)


def test_near_duplicates_are_found_as_by_comparing_every_pair():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["alpha", "beta", "gamma", "delta"], 4)) for _ in range(600)]
    queries = [Query.of(text) for text in dict.fromkeys(texts)]
    cosine = 0.8
    stays: list[int] = []
    rows = overlap._vectors(queries, [], None)[0].toarray()
    for i, row in enumerate(rows):
        if not any(row @ rows[j] >= cosine for j in stays):
            stays.append(i)
    assert 1 < len(stays) < len(queries)
    assert overlap.distinct(queries, cosine=cosine) == stays
    assert overlap.distinct(queries * 3, cosine=cosine) == stays, "more than one block"


def test_of_rows_that_go_the_reason_is_counted():
    texts = [TEST, "What is a list?", "what is a list", "Who was that?", "Name a city."]
    tags = [("t",)] * 5
    told = diversity.diversify(list(map(Query.of, texts)), tags, [Query.of(TEST)], per_tag=2)
    assert (told.overlapping, told.duplicates, told.crowded, len(told.rows)) == (1, 1, 1, 2)


def test_no_tag_has_more_than_its_places_and_no_place_stays_empty():
    rng = np.random.default_rng(1)
    tags = [[f"t{t}" for t in rng.choice(8, rng.integers(1, 4), replace=False)] for _ in range(200)]
    tags += [[]] * 3
    chosen = diversity.at_most(tags, 10, seed=3)
    counts = Counter(tag for i in chosen for tag in tags[i])
    assert max(counts.values()) == 10
    assert set(chosen) >= {200, 201, 202}, "nothing limits queries without tags"
    for i in set(range(200)) - set(chosen):
        assert any(counts[tag] == 10 for tag in tags[i]), "a query was dropped without need"
    assert chosen == diversity.at_most(tags, 10, seed=3) != diversity.at_most(tags, 10, seed=4)


def test_rare_tags_are_not_crowded_out_by_common_ones():
    tags = [["common"]] * 50 + [["common", "rare"]] * 3
    assert set(diversity.at_most(tags, 5)) >= {50, 51, 52}


def test_diversify_from_the_command_line(tmp_path):
    frame = table(200)
    held_out = pl.DataFrame({"id": ["t0"], "prompt": [frame["prompt"][1]]})
    held_out.write_ndjson(tmp_path / "test.jsonl")
    args = ["diversify", str(write(tmp_path, frame)), "--out", str(tmp_path / "out.parquet")]
    args += ["--against", str(tmp_path / "test.jsonl"), "--against-split", "dev"]
    done = CliRunner().invoke(app, [*args, "--per-tag", "12", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.output)
    assert told["overlapping"] >= 1
    found = outcomes.read(tmp_path / "out.parquet", split="train")
    assert Counter(found.domains) == {"sums": 12, "words": 12}
    assert len(found) == told["rows"]
    kept = outcomes.read(tmp_path / "out.parquet", split="dev")
    assert len(kept) == (frame["split"] == "dev").sum(), "the held-out split is untouched"


def test_diversify_reads_and_writes_mere_queries(tmp_path):
    pl.DataFrame(
        {
            "id": ["a", "b", "c"],
            "prompt": ["one two", "One, two!", "three"],
            "tags": [["x"], ["x"], ["x", "y"]],
        }
    ).write_ndjson(tmp_path / "q.jsonl")
    args = ["diversify", str(tmp_path / "q.jsonl"), "--out", str(tmp_path / "o.jsonl")]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    assert "1 are duplicates" in done.output
    rows = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["a", "c"]
    unnamed = pl.read_ndjson(tmp_path / "q.jsonl").drop("id").rename({"prompt": "question"})
    unnamed.write_ndjson(tmp_path / "q.jsonl")
    assert CliRunner().invoke(app, args).exit_code == 0
    named = {item.query.text: item.query.id for item in query_sets.read(tmp_path / "q.jsonl")}
    kept = [item.query.id for item in query_sets.read(tmp_path / "o.jsonl")]
    assert kept == [named["one two"], named["three"]], "as `interview` would call them"
    for wrong in ("out.csv", "out"):
        failed = CliRunner().invoke(app, [*args[:-1], str(tmp_path / wrong)])
        assert isinstance(failed.exception, BadInput)


# --- tags ----------------------------------------------------------------------------------


def tag(upstream, path, queries, **settings):
    found = {}

    def in_thread(who):
        with Journal(path) as journal:
            found["it"] = tagging.by_expert(queries, "tagger", [who], journal, **settings)

    async def run():
        async with running(upstream):
            await asyncio.to_thread(in_thread, expert(upstream.expert("tagger")))

    asyncio.run(run())
    return found["it"]


QUERIES = [Query.of(f"Add {i} and {i + 1}.", id=f"q{i}") for i in range(6)]


def test_tags_of_an_expert_are_brought_to_one_spelling_and_paid_once(tmp_path):
    spellings = itertools.cycle(['["Word-Problem", "sums"]', '["word problems", "Sum"]'])
    upstream = Upstream(says=lambda body: next(spellings))
    tags, tally = tag(upstream, tmp_path / "j.jsonl", QUERIES)
    assert len(set(tags)) == 1
    assert len(tags[0]) == 2
    assert (tally.tagged, tally.tags, tally.unread) == (6, 2, 0)
    assert tally.cost > 0
    again, second = tag(upstream, tmp_path / "j.jsonl", QUERIES)
    assert (again, second.recalled, upstream.requests) == (tags, 6, 6)


def test_replies_without_a_list_are_counted_and_failures_named(tmp_path):
    upstream = Upstream(says="sums and words", faults=[status(400, "no such model")])
    tags, tally = tag(upstream, tmp_path / "j.jsonl", QUERIES)
    assert tags == [()] * 6
    assert (tally.unread, tally.failed) == (5, 1)
    assert "no such model" in tally.trouble


def test_tags_that_only_one_query_carries_say_nothing(tmp_path):
    texts = itertools.count()
    upstream = Upstream(says=lambda body: f'["sums", "odd {next(texts)}"]')
    tags, _ = tag(upstream, tmp_path / "j.jsonl", QUERIES)
    assert tags == [("sums",)] * 6


def test_the_tagger_must_be_in_the_config(tmp_path):
    with (
        Journal(tmp_path / "j.jsonl") as journal,
        pytest.raises(BadInput, match="no expert 'tagger'"),
    ):
        tagging.by_expert(QUERIES, "tagger", [Expert("other")], journal)


def test_clusters_find_topics_and_zooter_learns_from_them(tmp_path):
    path, out = write(tmp_path, table()), tmp_path / "tagged.parquet"
    done = CliRunner().invoke(app, ["tag", str(path), "--out", str(out), "--clusters", "2"])
    assert done.exit_code == 0, done.output
    rows = outcomes.read(out)
    pairs = Counter(zip(rows.domains, (q.tags for q in rows.queries), strict=True))
    assert sum(n for _, n in pairs.most_common(2)) > 0.95 * len(rows)
    for wrong in ([], ["--clusters", "2", "--expert", "a"], ["--expert", "a"]):
        failed = CliRunner().invoke(app, ["tag", str(path), "--out", str(out), *wrong])
        assert isinstance(failed.exception, BadInput)
