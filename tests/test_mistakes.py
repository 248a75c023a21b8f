"""Mistakes in files: each ends in one sentence with the value and the way out, before any work."""

from __future__ import annotations

import csv
import gzip
import io
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from routewright.cli import main
from routewright.data import endings, outcomes, queries
from routewright.errors import BadInput, BadTable, DataWarning
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
        (
            "excel.csv",
            (HEAD + BODY).replace(",", ";").encode("cp1252"),
            "is 'é' in cp1252; .* semicolons, too, and must be by commas",
        ),
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


NAMES = "id prompt reference gold score::a cost::a n".split()
CELLS = [
    ["0", "café?", "1,5", "2,5", "0,5", "1,2E-05", "7"],
    ["1", "tea; no?", "2", "3", "1", "0,25", "8"],
]


def sheet(mark: str) -> str:
    """What a spreadsheet in German writes."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=mark).writerows([NAMES, *CELLS])
    return text.getvalue()


def converted(*arguments: object) -> str:
    """What `routewright convert` prints."""
    command = ["convert", *map(str, arguments)]
    return CliRunner().invoke(main.app, command, catch_exceptions=False).output


SHEETS = [
    ("excel.csv", sheet(";").encode("cp1252"), "cp1252 text, columns separated by semicolons"),
    ("utf8.csv", sheet(";").encode("utf-8-sig"), "utf-8 text, columns separated by semicolons"),
    ("text.csv", sheet("\t").encode("utf-16"), "utf-16 text, columns separated by tabs"),
    ("le.csv", sheet(";").encode("utf-16-le"), "utf-16-le text, columns separated by semicolons"),
]


@pytest.mark.parametrize(("name", "content", "how"), SHEETS)
def test_a_spreadsheets_csv_is_refused_with_the_command_that_rewrites_it(
    tmp_path: Path, name: str, content: bytes, how: str
):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (outcomes.read, queries.read):
        with pytest.raises(BadTable, match="routewright convert csv") as refused:
            read(path)
    command = shlex.split(str(refused.value).split("`")[1])
    output = converted(*command[2:])
    assert f"was read as {how}, and decimal commas in score::a, cost::a; wrote" in output
    table = outcomes.read(Path(command[-1]))
    assert [query.text for query in table.queries] == ["café?", "tea; no?"]
    assert table.score.tolist() == [[0.5], [1]]
    assert table.cost.tolist() == [[1.2e-05], [0.25]]
    assert [item.references for item in queries.read(Path(command[-1]))] == [("1,5",), ("2",)]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a,b\n1,2,3\n", [], "line 2 has more cells than the first line has names"),
        ("a;b\n", [], "has no rows below the names"),
        ("a|b\n1|2\n", [], "has one column .* name another --delimiter"),
        ("a;b\n1;2\n", ["--delimiter", "::"], "--delimiter '::' is not one character"),
        ("a;b\n1;2\n", ["--encoding", "klingon"], "no encoding is called 'klingon'"),
        ("a;b\n1;é\n", ["--encoding", "ascii"], "is not ascii text .* --encoding"),
        ("a;b\n1;2\n", ["--metric", "f1"], "--metric has no meaning for 'csv'"),
    ],
)
def test_a_file_that_cannot_be_rewritten_says_why(tmp_path: Path, content, options, message):
    path = tmp_path / "x.csv"
    path.write_text(content)
    with pytest.raises(BadInput, match=message):
        converted("csv", path, "--out", tmp_path / "o.csv", *options)
    assert not (tmp_path / "o.csv").exists()


def test_numbers_that_may_be_read_in_two_ways_stay_as_they_are(tmp_path: Path):
    path, out = tmp_path / "x.csv", tmp_path / "o.csv"
    for content in ("id;n;m\na;0,5;1,5\nb;0.5;x\n", 'id,n\na,"1,000"\n'):
        path.write_text(content)
        assert "decimal commas" not in converted("csv", path, "--out", out)
        cells = list(csv.reader(out.open()))
        assert cells == list(csv.reader(path.open(), delimiter=content[2]))


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
        ("t.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("t.csv.gz", gzip.compress((HEAD + "q0,café,1,\nq1,tea,,\n").encode(), mtime=0)),
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


# --- the same question twice -------------------------------------------------------------------

TEA, CAKE = {"id": "a", "prompt": "tea?"}, {"id": "b", "prompt": "cake?"}
TWICE = [  # a file with a repeated question; the number of rows to drop
    ("unnamed.jsonl", [{"prompt": "tea?"}, {"prompt": "tea?"}, {"prompt": "cake?"}], 1),
    ("named.jsonl", [TEA, TEA, TEA, CAKE], 2),
    ("spaces.json", [TEA, TEA | {"prompt": "Tea? "}, CAKE], 1),
    ("t.csv", [TEA, TEA, CAKE], 1),
]


def cli(*arguments: object) -> tuple[int, str]:
    """The exit code of `routewright …`, and its output in one line."""
    result = subprocess.run(
        [sys.executable, "-m", "routewright.cli.main", *map(str, arguments)],
        capture_output=True,
        text=True,
    )
    return result.returncode, " ".join((result.stdout + result.stderr).split())


def save(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".csv":
        names = list(rows[0])
        lines = [",".join(names), *(",".join(str(row[name]) for name in names) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        lines = [json.dumps(row) for row in rows]
        path.write_text(f"[{','.join(lines)}]" if path.suffix == ".json" else "\n".join(lines))
    return path


@pytest.mark.parametrize(("name", "rows", "extra"), TWICE)
def test_a_question_asked_twice_offers_to_keep_the_first(tmp_path: Path, name, rows, extra):
    path = save(tmp_path / name, rows)
    with pytest.raises(BadTable, match=r"both called .* or use --drop-duplicates"):
        queries.read(path)
    dropped = "1 row repeats another" if extra == 1 else f"{extra} rows repeat others"
    with pytest.warns(DataWarning, match=dropped):
        items = queries.read(path, drop_duplicates=True)
    assert len(items) == len(rows) - extra == 2
    assert items[0].query.text == "tea?"
    scored = save(path, [row | {"score::a": n, "cost::a": 1} for n, row in enumerate(rows[:2])])
    with pytest.raises(BadTable, match=r"both called .* or use --drop-duplicates"):
        outcomes.read(scored)
    with pytest.warns(DataWarning, match="1 row repeats another"):
        assert outcomes.read(scored, drop_duplicates=True).score.tolist() == [[0.0]]


def test_other_questions_under_one_id_are_no_duplicates(tmp_path: Path):
    rows = [{"id": 1, "prompt": "tea?", "score::a": 1}, {"id": 1, "prompt": "cake?", "score::a": 0}]
    path = save(tmp_path / "t.jsonl", rows)
    for drop in (True, False):
        with pytest.raises(BadTable, match=r"both called '1': .* as they ask different things"):
            outcomes.read(path, drop_duplicates=drop)
        with pytest.raises(BadTable, match=r"both called '1': .* as they ask different things"):
            queries.read(path, drop_duplicates=drop)


def test_a_question_under_two_ids_is_asked_once_if_the_user_says_so(tmp_path: Path):
    classes = ("public", "restricted")
    rows = [{"id": n, "prompt": "tea?", "data_class": name} for n, name in enumerate(classes)]
    path = save(tmp_path / "q.jsonl", rows)
    with pytest.warns(DataWarning, match="1 query asks the same .*; --drop-duplicates keeps"):
        assert len(queries.read(path)) == 2
    with pytest.warns(DataWarning, match="1 row repeats another and is dropped"):
        (item,) = queries.read(path, drop_duplicates=True)
    assert (item.query.id, item.query.data_class) == ("0", "restricted")


def test_the_kept_row_of_a_table_is_as_secret_as_the_dropped_one(tmp_path: Path):
    row = {"id": "a", "prompt": "tea?", "score::a": 1}
    path = save(tmp_path / "t.jsonl", [row, row | {"data_class": "restricted", "score::a": 0}])
    with pytest.warns(DataWarning, match="1 row repeats"):
        table = outcomes.read(path, drop_duplicates=True)
    assert table.queries[0].data_class == "restricted"


def test_two_long_rows_of_one_expert_offer_to_keep_the_first(tmp_path: Path):
    row = {"id": "a", "prompt": "tea?", "expert": "m", "score": 1}
    path = save(tmp_path / "t.jsonl", [row, row | {"score": 0}, row | {"expert": "n"}])
    with pytest.raises(BadTable, match=r"two rows for 'm' \(1 such rows\).* --drop-duplicates"):
        outcomes.read(path)
    with pytest.warns(DataWarning, match="1 row repeats"):
        assert outcomes.read(path, drop_duplicates=True).score.tolist() == [[1, 1]]


def test_every_command_that_reads_a_table_can_drop_duplicates(tmp_path: Path):
    rows = [
        {"id": n // 2, "prompt": f"q{n // 2}", "score::a": n % 4 > 1, "score::b": 1,
         "cost::a": 1, "cost::b": 2, "answer::a": "x", "reference": "x"}
        for n in range(80)
    ]  # fmt: skip
    table = save(tmp_path / "t.jsonl", rows)
    router, out = tmp_path / "router", tmp_path / "out.parquet"
    commands = {
        "fit": ["fit", table, "--out", router, "--predictor", "prior", "--encoder", "surface"],
        "evaluate": ["evaluate", router, table, "--split", "all"],
        "select": ["select", table],
        "tag": ["tag", table, "--out", out, "--clusters", 2],
        "diversify": ["diversify", table, "--out", out],
        "regrade": ["regrade", table, "--out", out, "--grader", "exact"],
        "route": ["route", router, "--queries", table, "--out", out],
    }
    app = typer.main.get_command(main.app)
    for name, command in commands.items():
        for flags, code in (([], 2), (["--drop-duplicates"], 0)):
            result = CliRunner().invoke(main.app, [*map(str, command), *flags])
            error = result.exception
            assert isinstance(error, BadTable) == (code == 2), (name, result.output, error)
            assert code != 2 or "--drop-duplicates" in str(error), name
    takes = {"fit", "evaluate", "select", "add-expert", "tag", "diversify", "reward", "regrade"}
    for name in takes | {"route", "interview"}:
        names = [flag for option in app.commands[name].params for flag in option.opts]
        assert "--drop-duplicates" in names, name


def test_an_interview_says_how_many_queries_it_drops(tmp_path: Path):
    config = tmp_path / "routewright.yaml"
    config.write_text(
        "version: 1\nexperts:\n  - {name: a, model: m, base_url: 'http://127.0.0.1:9/v1',"
        " input_per_mtok: 1, output_per_mtok: 1}\npolicies: {default: {expert: a}}\n"
    )
    path = save(tmp_path / "q.jsonl", [{"prompt": "tea?", "reference": "x"}] * 3)
    command = ("interview", config, path, "--out", tmp_path / "o.parquet", "--dry-run")
    code, output = cli(*command)
    assert (code, "use --drop-duplicates (2 such rows)" in output) == (2, True), output
    code, output = cli(*command, "--drop-duplicates")
    assert (code, "2 rows repeat others and are dropped" in output) == (0, True), output


def test_the_help_names_every_ending_that_is_read():
    assert set(queries.READERS) == set(endings.ENDINGS)
    plain = {ending.strip(".").upper() for ending in endings.ENDINGS} - {"NDJSON"}
    assert all(
        name in endings.READABLE.upper() for name in (*plain, *map(str.upper, endings.PACKED))
    )
    app = typer.main.get_command(main.app)
    helps = [str(getattr(one, "help", "")) for verb in app.commands.values() for one in verb.params]
    assert sum(endings.READABLE in text for text in helps) >= 7
    assert not [text for text in helps if "JSONL or CSV" in text or ".parquet or .csv" in text]
