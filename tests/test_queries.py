"""Query sets in the formats that people have, and what grading them takes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from routewright.data import queries
from routewright.errors import BadInput
from routewright.types import Query


def read(folder: Path, name: str, text: str, **how) -> list[queries.Item]:
    (folder / name).write_text(text, encoding="utf-8")
    return queries.read(folder / name, **how)


def test_jsonl_with_our_names_and_with_those_of_others(tmp_path: Path):
    ours = {"id": 7, "prompt": "2 + 2?", "domain": "sums", "tags": ["easy"], "reference": 4}
    theirs = {"query_id": 7, "question": "2 + 2?", "task": "sums", "tags": ["easy"], "target": 4}
    lines = json.dumps({**ours, "split": "dev", "choices": ["3", "4"]})
    [one] = read(tmp_path, "q.jsonl", lines)
    assert (one.query.id, one.query.text, one.query.domain) == ("7", "2 + 2?", "sums")
    assert (one.query.tags, one.references, one.split) == (("easy",), ("4",), "dev")
    assert one.facts == {"choices": ["3", "4"]}
    [other] = read(tmp_path, "r.jsonl", json.dumps(theirs), split="dev")
    assert (other.query, other.reference, other.split) == (one.query, 4, "dev")


def test_csv_and_parquet_hold_the_same_items(tmp_path: Path):
    chat = json.dumps(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    )
    text = (
        f'id,messages,tags,choices\na,"{chat.replace(chr(34), chr(34) * 2)}",x;y,"[""p"",""q""]"\n'
    )
    [from_csv] = read(tmp_path, "q.csv", text)
    frame = {"id": ["a"], "messages": [chat], "tags": [["x", "y"]], "choices": [["p", "q"]]}
    pl.DataFrame({**frame, "score::small": [1.0]}).write_parquet(tmp_path / "q.parquet")
    [from_parquet] = queries.read(tmp_path / "q.parquet")
    assert from_csv == from_parquet
    assert from_csv.query.text == "Hi"
    assert from_csv.query.messages[0]["role"] == "system"


def test_queries_without_an_id_are_named_after_their_words(tmp_path: Path):
    first = read(tmp_path, "a.jsonl", '{"prompt": "one"}\n{"prompt": "two"}')
    second = read(tmp_path, "b.jsonl", '{"prompt": "two"}\n{"prompt": "three"}')
    assert first[1].query.id == second[0].query.id != first[0].query.id


def test_what_is_written_is_read_back(tmp_path: Path):
    rows = [
        {"id": "a", "prompt": "p", "reference": ["x", "y"], "grader": "f1", "rubric": "short"},
        {
            "id": "b",
            "messages": [{"role": "user", "content": "u"}, {"role": "user", "content": "v"}],
        },
        {"id": "c", "prompt": "q", "data_class": "internal", "options": {"temperature": 0}},
    ]
    before = read(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows)))
    queries.write(before, tmp_path / "b.jsonl")
    assert queries.read(tmp_path / "b.jsonl") == before


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ('{"prompt": " "}', "line 1 has neither"),
        ('{"messages": []}', "`messages` must be a list such as"),
        ('{"messages": [{"role": "user"}]}', "`messages` must be a list such as"),
        ('{"prompt": "a", "tags": {"x": 1}}', "`tags` must be a list"),
        ('{"prompt": "a", "options": 3}', "`options` must be an object"),
        ("[1]", "is not an object"),
    ],
)
def test_what_is_wrong_with_a_row_is_told_with_its_line(tmp_path: Path, row, complaint):
    with pytest.raises(BadInput, match="line 1") as told:
        read(tmp_path, "q.jsonl", row)
    assert complaint in str(told.value)


def test_files_that_are_no_query_sets(tmp_path: Path):
    (tmp_path / "q.parquet").write_bytes(b"nonsense")
    with pytest.raises(BadInput, match="not a Parquet file"):
        queries.read(tmp_path / "q.parquet")
    (tmp_path / "q.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="UTF-8"):
        queries.read(tmp_path / "q.jsonl")
    with pytest.raises(BadInput, match="no file"):
        queries.read(tmp_path / "none.csv")


def in_domains(sizes: dict[str, int], start: int = 0) -> list[queries.Item]:
    return [
        queries.Item(Query.of(f"{name} question {start + n}", domain=name), split="")
        for name, size in sizes.items()
        for n in range(size)
    ]


def dev_texts(items: list[queries.Item]) -> set[str]:
    return {i.query.text for i in queries.held_out(items, 0.2) if i.split == "dev"}


def test_every_domain_in_which_a_row_is_due_holds_rows_out():
    sizes = {f"d{n}": 5 + n for n in range(60)}
    items = in_domains(sizes)
    dev = Counter(text.split()[0] for text in dev_texts(items))
    assert all(dev[name] >= max(1, size // 5 // 2) for name, size in sizes.items())
    assert sum(dev.values()) / len(items) == pytest.approx(0.2, abs=0.03)
    assert not dev_texts(in_domains({"tiny": 1})) & dev_texts(in_domains({"tiny": 1}, 7))


def test_the_text_alone_decides_who_is_held_out_in_any_order_and_beside_any_others():
    items = in_domains({"sums": 200, "tales": 200})
    dev = dev_texts(items)
    assert dev_texts(items[::-1]) == dev
    more = in_domains({"sums": 300, "rivers": 40}, start=1000)
    texts = {item.query.text for item in items}
    assert dev_texts([*more, *items]) & texts == dev
    bare = [replace(item, query=replace(item.query, domain=None)) for item in items]
    assert dev_texts(bare) == dev, "nobody's domain moves a hash"


def test_what_is_held_out_is_counted_by_domain_with_what_it_proves():
    items = queries.held_out(in_domains({"sums": 60, "tales": 40}), 0.2)
    said = queries.proof_of(items)
    dev = Counter(i.query.domain for i in items if i.split == "dev")
    assert said.startswith(
        f"{dev.total()} of 100 queries are held out ({dev['sums']} of 60 of sums"
    )
    assert f"{dev.total()} rows are too few to prove anything" in said
    assert "100 rows can prove differences of about 9 percentage points or more" in said
