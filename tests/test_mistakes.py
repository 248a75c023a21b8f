"""Mistakes in files: each ends in one sentence with the value and the way out, before any work."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from routewright.data import outcomes, queries
from routewright.errors import BadInput, BadTable
from routewright.router.router import Router

HEAD = "id,prompt,score::a,cost::a\n"
BODY = "q0,café,1,0.1\nq1,tea,0,0.2\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("semi.csv", (HEAD + BODY).replace(",", ";"), "separates its columns by semicolons"),
        ("tabs.csv", (HEAD + BODY).replace(",", "\t"), "by tabs .*: name it .tsv"),
        ("commas.tsv", HEAD + BODY, "by commas .*: name it .csv"),
        ("comma.csv", HEAD + 'q0,p,"0,5",1\n', "score::a is '0,5' in row 'q0' .* with a point"),
        ("comma2.csv", HEAD + "q0,p,0,5,1\n", "more cells .* decimals with a point"),
        ("utf16.csv", (HEAD + BODY).encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        ("utf16le.csv", (HEAD + BODY).encode("utf-16-le"), "is UTF-16 text: save it as UTF-8"),
        ("cp1252.csv", (HEAD + BODY).encode("cp1252"), "line 2 is not UTF-8 .* is 'é' in cp1252"),
        ("caps.csv", HEAD.upper().replace("::A", "::a") + BODY, "column 'ID': write it `id`"),
        ("score.csv", HEAD.replace("score", "Score") + BODY, "'Score::a': write it `score::a`"),
        ("class.csv", "id,prompt,Data Class,score::a\n0,p,restricted,1\n", "write it `data_class`"),
        ("list.jsonl", '[{"id": 1, "prompt": "p", "score::a": 1}]', "a list: name it .json"),
        ("list2.jsonl", json.dumps([{"prompt": "p"}], indent=1), "a list: name it .json"),
        ("pretty.jsonl", json.dumps({"prompt": "p"}, indent=1), "write each object in one line"),
        ("null.jsonl", '{"prompt": null, "score::a": 1}', "`prompt` is null; write a text or"),
        ("inf.jsonl", '{"prompt": "p", "score::a": Infinity}', "Infinity is not a number that"),
        (
            "twice.jsonl",
            '{"prompt": "p?", "score::a": 1}\n' * 2,
            "ask the same \\('p\\?'\\), so keep",
        ),
        ("queries.jsonl", '{"prompt": "p"}', "for a query set, `routewright interview` asks"),
        ("config.yaml", "experts: []", "is a config, and an outcome table is needed here"),
    ],
)
def test_a_table_with_a_mistake_is_refused_with_the_way_out(tmp_path: Path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadTable, match=message):
        outcomes.read(path)
    if name != "queries.jsonl" and name != "comma.csv":
        with pytest.raises(BadTable, match=message.replace("an outcome table is", ".*")):
            queries.read(path)


def test_a_table_in_the_place_of_a_router_or_a_config(tmp_path: Path):
    from routewright import config

    path = tmp_path / "t.csv"
    path.write_text(HEAD + BODY)
    with pytest.raises(BadInput, match="check the order of the arguments"):
        Router.load(path)
    with pytest.raises(BadInput, match="is a table or query set, not a config"):
        config.load(path)


ROWS = [{"id": "q0", "prompt": "café", "score::a": 1.0}, {"id": "q1", "prompt": "tea"}]
LINES = "\n".join(map(json.dumps, ROWS))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.json", json.dumps(ROWS, indent=2).encode()),
        ("t.jsonl.gz", gzip.compress(LINES.encode())),
        ("t.csv.gz", gzip.compress((HEAD + "q0,café,1,\nq1,tea,,\n").encode())),
        ("t.tsv", (HEAD + "q0,café,1,\nq1,tea,,\n").replace(",", "\t").encode()),
        ("t.csv", (HEAD + "q0,café,1,\nq1,tea,,\n,,,\n\n,,,\n").encode()),
        ("t.JSONL", LINES.encode("utf-8-sig")),
        ("t.jsonl", (LINES[:-1] + ', "score::a": NaN}').encode()),
    ],
)
def test_files_that_people_have_are_read(tmp_path: Path, name: str, content: bytes):
    path = tmp_path / name
    path.write_bytes(content)
    assert [query.text for query in outcomes.read(path).queries] == ["café", "tea"]
    assert str(outcomes.read(path).score[:, 0].tolist()) == "[1.0, nan]"
    assert [item.query.text for item in queries.read(path)] == ["café", "tea"]
