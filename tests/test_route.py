"""`routewright route --queries`: a decision for every query of a set, in batches."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from routewright.data import queries
from routewright.data.queries import Item
from routewright.errors import BadTable
from routewright.router import query_sets
from routewright.types import Query


@pytest.fixture
def lines(tmp_path: Path):
    """Writes rows as JSONL; returns the file."""

    def write(*rows: object, name: str = "q.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return path

    return write


def asked(number: int) -> dict[str, str]:
    return {"id": f"q{number}", "prompt": f"What is {number} + {number * 7 % 13}?"}


def test_processes_decide_as_one_query_alone_and_keep_the_order(
    routewright, router_folder, lines, tmp_path, monkeypatch
):
    monkeypatch.setattr(query_sets, "BATCH", 7)
    out = tmp_path / "routed.parquet"
    at = ("--max-cost-fraction", "0.5")
    words = ("route", router_folder, "--queries", lines(*map(asked, range(30))), "--out", out, *at)
    code, said, _ = routewright(*words, "--json")
    routed = pl.read_parquet(out)
    assert code == 0
    assert json.loads(said)["queries"] == 30
    assert routed["id"].to_list() == [f"q{n}" for n in range(30)]
    for n in (0, 13, 29):
        _, alone, _ = routewright("route", router_folder, asked(n)["prompt"], *at, "--json")
        facts, row = json.loads(alone), routed.row(n, named=True)
        assert (row["expert"], row["asks"]) == (facts["expert"], facts["asks"])
        for expert in facts["experts"]:
            for measure in ("quality", "cost"):
                assert row[f"{measure}::{expert['expert']}"] == pytest.approx(expert[measure])


@pytest.mark.parametrize("size", [7, 1000])
def test_a_bad_row_is_named_and_the_earlier_table_stays(
    routewright, router_folder, lines, tmp_path, monkeypatch, size
):
    monkeypatch.setattr(query_sets, "BATCH", size)
    out = tmp_path / "routed.parquet"
    out.write_text("earlier")
    path = lines(*map(asked, range(10)), {"id": "q10"})
    code, _, said = routewright("route", router_folder, "--queries", path, "--out", out)
    assert code == 2
    assert "line 11" in said
    assert out.read_text() == "earlier"
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".parquet"] == ["routed.parquet"]


ROWS = {
    "distinct": [asked(1), asked(2)],
    "one id, one question": [asked(1), asked(2), asked(1)],
    "one id, two questions": [asked(1), {**asked(2), "id": "q1"}],
    "two ids, one question": [asked(1), {**asked(1), "id": "q2"}],
    "no ids": [{"prompt": "a?"}, {"prompt": "b?"}, {"prompt": "a?"}],
    "one id, other case": [asked(1), {"id": "q1", "prompt": asked(1)["prompt"].upper()}],
    "nothing": [],
}


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.filterwarnings("ignore::routewright.errors.DataWarning")
def test_a_set_that_is_streamed_is_the_set_that_is_read(lines, kind: str, drop: bool):
    def result(reading) -> list[Query] | str:
        try:
            return [item.query for item in reading(lines(*ROWS[kind]), drop_duplicates=drop)]
        except BadTable as error:
            return str(error)

    assert result(queries.stream) == result(queries.read)


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv", "jsonl.gz"])
def test_every_format_can_be_streamed(tmp_path: Path, ending: str, monkeypatch):
    monkeypatch.setattr("routewright.data.parquet.PART", 3)
    items = [Item(Query.of(asked(n)["prompt"], id=f"q{n}"), split="") for n in range(8)]
    path = tmp_path / f"q.{ending}"
    frame = pl.DataFrame([asked(n) for n in range(8)])
    if ending == "parquet":
        frame.write_parquet(path)
    elif ending == "csv":
        frame.write_csv(path)
    elif ending == "jsonl":
        queries.write(items, path)
    else:
        import gzip

        path.write_bytes(gzip.compress(frame.write_ndjson().encode()))
    assert [item.query for item in queries.stream(path)] == [item.query for item in items]


def test_the_first_lines_of_a_file_are_given_before_its_last_is_read(lines):
    path = lines(*map(asked, range(3)))
    with path.open("a") as file:
        file.write("no JSON\n")
    stream = queries.stream(path)
    assert next(stream).query.id == "q0"
    with pytest.raises(BadTable, match="line 4 is not JSON"):
        list(stream)
