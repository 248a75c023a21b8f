"""Outcome tables: what is read, what is refused, and how the refusal helps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from routewright.data import outcomes
from routewright.errors import BadTable
from tables import table, write


def test_a_wide_table_is_read_whole(tmp_path: Path):
    o = outcomes.read(write(tmp_path, table(40)))
    assert o.experts == ("adder", "speller", "sage")
    assert o.score.shape == o.cost.shape == (40, 3)
    assert o.queries[0].id == "q0"
    assert o.queries[0].domain in ("sums", "words")


def test_long_lines_become_the_same_table(tmp_path: Path):
    frame = table(30)
    lines = [
        {
            "query_id": row["id"],
            "query": row["prompt"],
            "task": row["domain"],
            "split": row["split"],
            "model": m,
            "score": row[f"score::{m}"],
            "cost": row[f"cost::{m}"],
        }
        for row in frame.to_dicts()
        for m in ("adder", "speller", "sage")
    ]
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    wide = outcomes.read(write(tmp_path, frame.select(pl.exclude("^verify::.*$"))))
    long = outcomes.read(path)
    assert long.experts == wide.experts
    assert np.allclose(long.score, wide.score)
    assert np.allclose(long.cost, wide.cost)
    assert [q.text for q in long.queries] == [q.text for q in wide.queries]


def test_experts_interviewed_later_are_joined_by_id(tmp_path: Path):
    frame = table(30)
    early = write(tmp_path, frame.select(pl.exclude("^.*::sage$")), "early.parquet")
    late = frame.filter(pl.int_range(30) >= 10).select("id", "prompt", "score::sage", "cost::sage")
    o = outcomes.read([early, write(tmp_path, late, "late.parquet")])
    assert o.experts == ("adder", "speller", "sage")
    assert np.isnan(o.score[:, 2]).sum() == 10


def test_tables_that_disagree_are_refused(tmp_path: Path):
    frame = table(30)
    other = frame.with_columns(pl.lit(0.5).alias("score::sage"))
    with pytest.raises(BadTable, match="disagree on score::sage of row 'q0'"):
        outcomes.read([write(tmp_path, frame, "a.parquet"), write(tmp_path, other, "b.parquet")])


def test_splits(tmp_path: Path):
    path = write(tmp_path, table(40))
    assert len(outcomes.read(path, split="train")) == 30
    assert len(outcomes.read(path, split="all")) == 40
    with pytest.raises(BadTable, match="no row has split 'test'; there are dev, train"):
        outcomes.read(path, split="test")
    whole = write(tmp_path, table(40).drop("split"), "whole.parquet")
    assert len(outcomes.read(whole, split="train")) == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pl.lit(1.5).alias("score::sage"), r"score::sage is 1.5 in row 'q0' and must be in 0..1"),
        (pl.lit(-1.0).alias("cost::sage"), r"cost::sage is -1 in row 'q0'"),
        (pl.lit(float("inf")).alias("cost::sage"), r"cost::sage is inf"),
        (pl.lit("q7").alias("id"), r"row 2 and '.*' row 1 are both called 'q7': keep one"),
        (
            pl.lit("good").alias("score::sage"),
            r"score::sage is 'good' in row 'q0' and must be a number",
        ),
        (pl.lit('{"role":').alias("messages"), r"t' row 1: `messages` is not JSON"),
        (pl.lit('{"role": 1}').alias("messages"), r"t' row 1: `messages` must be a list such"),
        (pl.lit("[a").alias("tags"), r"t' row 1: `tags` is not JSON"),
        (pl.lit([1, 2]).alias("answer::sage"), r"answer::sage must be text, not List"),
        (pl.lit(1).alias("split"), r"no row has split 'train'; there are 1"),
        (pl.lit(1.0).alias("score::"), r"column 'score::' has no expert's name"),
    ],
)
def test_bad_cells_are_named(tmp_path: Path, change, message):
    frame = table(20).with_columns(change)
    frame = frame.drop("prompt") if "messages" in frame.columns else frame
    with pytest.raises(BadTable, match=message):
        outcomes.read(write(tmp_path, frame), split="train" if frame["split"][0] == 1 else "all")


def test_what_was_stored_as_numbers_is_read_as_text(tmp_path: Path):
    frame = table(20).with_columns(
        pl.int_range(20).cast(pl.Float64).alias("id"),
        pl.int_range(20).alias("prompt"),
        pl.lit(7).alias("domain"),
        pl.lit(4.0).alias("answer::sage"),
        pl.lit(4.5).alias("answer::adder"),
        pl.lit("algebra; hard").alias("tags"),
    )
    o = outcomes.read(write(tmp_path, frame))
    query = o.queries[3]
    assert (query.id, query.text, query.domain) == ("3", "3", "7")
    assert query.tags == ("algebra", "hard")
    assert o.answers is not None
    assert o.answers[3].tolist() == ["4.5", None, "4"]


def test_csv_is_the_same_table(tmp_path: Path):
    frame = table(20)
    path = tmp_path / "t.csv"
    frame.write_csv(path)
    assert outcomes.read(path).digest == outcomes.read(write(tmp_path, frame)).digest


def test_a_cell_that_is_not_a_number_is_filled_by_the_table_that_knows_it(tmp_path: Path):
    frame = table(20)
    lacking = frame.with_columns(pl.lit(float("nan")).alias("score::sage"))
    o = outcomes.read([write(tmp_path, lacking, "a.parquet"), write(tmp_path, frame, "b.parquet")])
    assert np.isfinite(o.score).all()


def test_unknown_experts_get_a_hint(tmp_path: Path):
    path = write(tmp_path, table(20))
    with pytest.raises(BadTable, match="no expert 'speler': did you mean 'speller'"):
        outcomes.read(path, experts=["speler"])
    with pytest.raises(BadTable, match="'sage' is named twice"):
        outcomes.read(path, experts=["sage", "sage"])


def test_files_that_are_not_tables_are_refused(tmp_path: Path):
    whole = write(tmp_path, table(20))
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(whole.read_bytes()[:-200])
    with pytest.raises(BadTable, match=r"cut.parquet' is not a readable outcome table"):
        outcomes.read(cut)
    with pytest.raises(BadTable, match="no file"):
        outcomes.read(tmp_path / "absent.parquet")
    with pytest.raises(BadTable, match="has no rows"):
        outcomes.read(write(tmp_path, table(20).clear(), "empty.parquet"))
    with pytest.raises(BadTable, match=r"no column is called score::EXPERT; there are id, prompt"):
        outcomes.read(write(tmp_path, table(20).select("id", "prompt"), "bare.parquet"))
    nothing = table(20).with_columns(
        pl.lit(None, pl.Float64).alias(f"score::{m}") for m in ("adder", "speller", "sage")
    )
    with pytest.raises(BadTable, match="no score is known"):
        outcomes.read(write(tmp_path, nothing, "null.parquet"))


def test_a_row_is_replayed_with_its_verification_at_the_answers_cost(tmp_path: Path):
    o = outcomes.read(write(tmp_path, table(20)))
    record = o.record(3)
    assert record["sage"].score == o.score[3, 2]
    assert record["sage", "verify"].cost == record["sage"].cost > 0


def test_missing_scores_are_missing_answers(tmp_path: Path):
    frame = table(20).with_columns(
        pl.when(pl.col("id") == "q2")
        .then(None)
        .otherwise(pl.col("score::sage"))
        .alias("score::sage")
    )
    o = outcomes.read(write(tmp_path, frame))
    assert "sage" not in o.record(2)
    assert "sage" in o.record(3)


def test_the_digest_names_the_data(tmp_path: Path):
    a, b = (outcomes.read(write(tmp_path, table(20, seed=s))) for s in (0, 1))
    again = outcomes.read(write(tmp_path, table(20, seed=0)))
    assert a.digest == again.digest != b.digest


def test_rewards_stand_in_where_nobody_could_grade(tmp_path):
    """What `interview` without references and then `reward` make."""
    ungraded = {"id": ["a", "b"], "prompt": ["p", "q"], "reward::m": [-1.0, 3.0]}
    frame = pl.DataFrame({**ungraded, "score::m": pl.Series([None, None], dtype=pl.Float64)})
    frame.write_parquet(tmp_path / "t.parquet")
    assert outcomes.read(tmp_path / "t.parquet").score[:, 0].tolist() == [0.0, 1.0]
    graded = frame.with_columns(pl.Series("score::m", [0.5, None], dtype=pl.Float64))
    graded.write_parquet(tmp_path / "t.parquet")
    assert outcomes.read(tmp_path / "t.parquet").score[0, 0] == 0.5


def test_where_keeps_the_rows_with_these_values(tmp_path: Path):
    whole = outcomes.read(write(tmp_path, table(40)))
    train = whole.where(split="train")
    assert train.digest == outcomes.read(tmp_path / "outcomes.parquet", split="train").digest
    assert train.split == "train"
    sums = train.where(domain="sums")
    assert set(sums.domains) == {"sums"}
    assert whole.where(domain="sums").where(split="train").digest == sums.digest
    assert len(sums) + len(train.where(domain="words")) == len(train)
    assert len(whole.where(split=("train", "dev"), domain=["sums", "words"])) == 40
    assert [q.id for q in whole.where(id={"q3", "q5"}).queries] == ["q3", "q5"]


def test_where_takes_rows_with_one_of_the_tags(tmp_path: Path):
    tags = [["easy", "short"], ["easy"], [], ["hard"]]
    path = write(tmp_path, table(4).with_columns(pl.Series("tags", tags)))
    assert len(outcomes.read(path).where(tags="easy")) == 2
    assert len(outcomes.read(path).where(tags=["short", "hard"])) == 2


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"topic": "sums"}, "no column 'topic' to filter by: there are id, domain, data_class"),
        ({"split": "test"}, "no row has split 'test': there are dev, train"),
        ({"domain": ["sums", "law"]}, "no row has domain 'law': there are sums, words"),
        ({"id": "q0", "split": "train"}, "no row has id='q0' and split='train'"),
    ],
)
def test_where_names_what_no_row_has(tmp_path: Path, columns, message):
    whole = outcomes.read(write(tmp_path, table(40)))
    with pytest.raises(BadTable) as error:
        whole.where(**columns)
    assert message in str(error.value)


def test_where_needs_the_column(tmp_path: Path):
    path = write(tmp_path, table(40).drop("split", "domain"))
    for column in ("split", "domain"):
        with pytest.raises(BadTable, match=f"no column '{column}'"):
            outcomes.read(path).where(**{column: "train"})


def test_an_unknown_cost_counts_as_that_experts_usual_one_and_never_as_nothing(tmp_path: Path):
    frame = pl.DataFrame(
        {
            "id": ["a", "b", "c", "d"],
            "prompt": ["1", "2", "3", "4"],
            **{f"score::{m}": [1.0, 0.0, 1.0, None] for m in ("known", "partly", "never")},
            "cost::known": [1.0, 2.0, 3.0, 4.0],
            "cost::partly": [1.0, None, 3.0, None],
        }
    )
    o = outcomes.read(write(tmp_path, frame))
    known, partly, never = (o.charges[:, m].tolist() for m in range(3))
    assert known == [1.0, 2.0, 3.0, 4.0]
    assert partly[:3] == [1.0, 2.0, 3.0], "what it costs on average"
    assert np.isnan([partly[3], *never]).all(), "no answer, and nothing known of its costs"
    assert [o.record(row)["partly"].cost for row in range(3)] == [1.0, 2.0, 3.0]
    part = o.costed().rows([1])
    assert part.charges[0, 1] == 2.0, "as the whole table has it"
    free = o.pool(["never"])
    assert free.charges.tolist() == [[0.0]] * 4, "a table without costs: every answer is free"
    assert np.isnan(free.costed().cost).all(), "but its costs stay unknown"


def messages(*texts: str) -> str:
    return json.dumps([{"role": "user", "content": text} for text in texts])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"prompt": "capital of Peru"}, {"prompt": "integral of x"}, False),
        ({"prompt": "capital of Peru"}, {"messages": messages("integral of x")}, False),
        ({"messages": messages("a", "b")}, {"messages": messages("a", "c")}, False),
        ({"prompt": "same", "stem_sha": "1"}, {"prompt": "same", "stem_sha": "2"}, False),
        ({"prompt": "capital of Peru"}, {"messages": messages("Capital of  Peru")}, True),
        ({"prompt": "capital of Peru"}, {"prompt": None}, True),
        ({"prompt": "<s>why", "stem_sha": "1"}, {"prompt": "[INST] why", "stem_sha": "1"}, True),
    ],
)
@pytest.mark.parametrize("long", [True, False])
def test_rows_of_one_id_are_joined_only_if_they_ask_the_same(tmp_path, one, other, same, long):
    def row(cells: dict, expert: str) -> dict:
        score = {"expert": expert, "score": 1.0} if long else {f"score::{expert}": 1.0}
        return {"id": "0", **cells, **score}

    lines = [json.dumps(row(one, "a")), json.dumps(row(other, "b"))]
    paths = [tmp_path / "a.jsonl"] if long else [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    paths[-1].write_text(lines[-1])
    paths[0].write_text("\n".join(lines) if long else lines[0])
    if same:
        assert outcomes.read(paths).score.tolist() == [[1.0, 1.0]]
        return
    with pytest.raises(BadTable, match="other prompts under the same id '0'"):
        outcomes.read(paths)


def test_answers_that_could_not_be_read_do_not_agree(tmp_path: Path):
    path = tmp_path / "o.csv"
    path.write_text(
        "id,prompt,score::a,score::b,answer::a,answer::b\n0,q,0,0,[invalid],[invalid]\n"
    )
    assert outcomes.read(path).answers.tolist() == [[None, None]]


def test_rows_without_a_stem_are_not_one_group(tmp_path: Path):
    path = tmp_path / "o.csv"
    path.write_text("id,prompt,score::a,stem_sha\n0,p,0,s\n1,q,0,s\n2,r,1,\n3,t,1,\n")
    assert len(set(outcomes.read(path).groups)) == 3


def test_rounding_is_clipped_and_said_and_more_is_refused(tmp_path: Path):
    path = tmp_path / "o.csv"
    path.write_text("id,prompt,score::a,cost::a\n0,p,1.0000001,-1e-18\n1,q,-1e-17,1\n2,r,0.5,1\n")
    done = subprocess.run(
        [sys.executable, "-m", "routewright", "select", path, "--split", "all", "--json"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"Note: '{path}': 3 cells of score::a, cost::a are outside")
    path.write_text("id,prompt,score::a,cost::a\n0,p,1.00001,1\n1,q,0,1\n")
    with pytest.raises(BadTable, match=r"score::a is 1.00001 in row '0' and must be in 0..1"):
        outcomes.read(path)
    path.write_text("id,prompt,score::a,cost::a\n0,p,1,-1e-7\n1,q,0,1\n")
    with pytest.raises(BadTable, match=r"cost::a is -1e-07 in row '0'"):
        outcomes.read(path)


def test_rewards_in_0_to_1_but_for_rounding_are_not_rescaled(tmp_path: Path):
    path = tmp_path / "o.csv"
    path.write_text("id,prompt,reward::a\n0,p,1.0000001\n1,q,0.25\n")
    assert outcomes.read(path).score[:, 0].tolist() == [1.0, 0.25]
