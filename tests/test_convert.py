"""`convert`: files in every dress, judgments as scores, prices, splits, and any other rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import sys
import zipfile
from pathlib import Path

import polars as pl
import pytest

from routewright.data import formats, outcomes
from routewright.errors import BadInput, BadTable, DataWarning, MissingExtra
from test_datasets import inspected, lines, lm_eval, prediction, routed, run

pytestmark = pytest.mark.filterwarnings("ignore::routewright.errors.DataWarning")


def table(out: Path) -> pl.DataFrame:
    return pl.read_parquet(out)


def converted(folder: Path, *arguments: object) -> pl.DataFrame:
    run(*arguments, "--out", folder / "o.parquet")
    return table(folder / "o.parquet")


# --- one reader --------------------------------------------------------------------------------

ROWS = [routed(i, model) for i in range(3) for model in ("small", "large")]
ROWS[0] |= {"response": math.nan, "performance": math.nan, "logprob": -math.inf}


def as_csv(rows: list[dict], separator: str = ",") -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ROWS[0]), delimiter=separator)
    writer.writeheader()
    for row in rows:
        missing = {name: "" for name, value in row.items() if value != value or value is None}
        writer.writerow(row | missing)
    return text.getvalue()


JSONL = "\n".join(map(json.dumps, ROWS))
DRESSES = {
    "train.jsonl": JSONL.encode(),
    "train.JSONL.gz": gzip.compress(JSONL.encode(), mtime=0),
    "train.ndjson": JSONL.encode("utf-8-sig"),
    "train.json": json.dumps(ROWS, indent=1).encode(),
    "train.json.gz": gzip.compress(json.dumps(ROWS).encode(), mtime=0),
    "train.csv": as_csv(ROWS).encode(),
    "train.csv.gz": gzip.compress((as_csv(ROWS) + ",,,\n\n").encode(), mtime=0),
    "train.tsv": as_csv(ROWS, "\t").encode(),
}


@pytest.mark.parametrize("name", DRESSES)
def test_one_table_in_every_dress_is_converted_alike(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(DRESSES[name])
    frame = converted(tmp_path, "llmrouter", path)
    assert frame["score::small"].to_list() == [None, 1.0, 0.0]
    assert frame["score::large"].to_list() == [1.0, 1.0, 1.0]
    assert frame["answer::small"].to_list() == [None, "1", "2"]
    assert frame["split"].to_list() == ["train"] * 3
    plain = formats.find("llmrouter")(lines(tmp_path / "train.jsonl", ROWS))
    assert frame["id"].to_list() == plain["id"].to_list()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", as_csv(ROWS, ";").encode(), "separates its columns by semicolons"),
        ("x.csv", as_csv(ROWS).encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        ("x.csv", as_csv([ROWS[1] | {"query": "café"}]).encode("cp1252"), "'é' in cp1252"),
        ("x.jsonl", json.dumps(ROWS).encode(), "a list: name it .json"),
        ("x.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0)[:-20], "is damaged"),
        ("x.txt", JSONL.encode(), "must end in .jsonl"),
    ],
)
def test_a_dress_that_hides_the_table_is_named(tmp_path: Path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadTable, match=message):
        run("llmrouter", tmp_path / name, "--out", tmp_path / "o.parquet")


@pytest.mark.parametrize("format", ["embedllm", "routellm"])
def test_tables_of_texts_may_be_json_too(tmp_path: Path, format: str):
    rows = {
        "embedllm": [{"prompt_id": 7, "model_id": 0, "label": 1, "prompt": "Why?"}],
        "routellm": [{"prompt": "Why?", "0": True}],
    }[format]
    path = tmp_path / "test.json"
    path.write_text(json.dumps(rows))
    assert converted(tmp_path, format, path)["score::0"].to_list() == [1.0]


def test_a_compressed_log_keeps_its_task_and_model(tmp_path: Path):
    log = lm_eval(tmp_path)
    packed = log.with_name(log.name + ".gz")
    packed.write_bytes(gzip.compress(log.read_bytes(), mtime=0))
    plain = formats.find("lm_eval")(log)
    assert formats.find("lm_eval")(packed).equals(plain)
    assert plain["text::meta-llama/Llama-3-8B"][1] == "It is 1."


# --- Zstandard ---------------------------------------------------------------------------------


def test_zstandard_without_its_packages_names_the_command(tmp_path: Path, monkeypatch):
    if sys.version_info >= (3, 14):
        pytest.skip("this Python reads Zstandard itself")
    monkeypatch.setitem(sys.modules, "backports", None)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.setitem(sys.modules, "zipfile_zstd", None)
    path = tmp_path / "train.jsonl.zst"
    path.write_bytes(b"\x28\xb5\x2f\xfd rest")
    advice = r"Zstandard, needs more packages: pip install 'routewright\[zstd\]'"
    with pytest.raises(MissingExtra, match=advice):
        run("llmrouter", path, "--out", tmp_path / "o.parquet")
    with pytest.raises(MissingExtra, match=advice):
        outcomes.read(path)
    log = tmp_path / "log.eval"
    with zipfile.ZipFile(log, "w") as archive:
        archive.writestr("header.json", "{}")
    content = bytearray(log.read_bytes())
    at = content.index(b"PK\1\2") + 10
    content[at : at + 2] = (93).to_bytes(2, "little")
    log.write_bytes(content)
    with pytest.raises(MissingExtra, match=advice):
        run("inspect_ai", log, "--out", tmp_path / "o.parquet")


def test_zstandard_is_read(tmp_path: Path):
    zstd = pytest.importorskip("backports.zstd")
    from backports.zstd import zipfile as zstd_zipfile

    path = tmp_path / "train.jsonl.zst"
    path.write_bytes(zstd.compress(JSONL.encode()))
    assert converted(tmp_path, "llmrouter", path)["score::small"].to_list() == [None, 1.0, 0.0]
    path.write_bytes(zstd.compress(JSONL.encode())[:-9])
    with pytest.raises(BadTable, match="is damaged"):
        formats.find("llmrouter")(path)
    log = tmp_path / "log.eval"
    with zstd_zipfile.ZipFile(log, "w", zstd_zipfile.ZIP_ZSTANDARD) as archive:
        for number, sample in enumerate(inspected()["samples"]):
            archive.writestr(f"samples/{number}.json", json.dumps(sample))
        archive.writestr("header.json", json.dumps(inspected() | {"samples": None}))
    assert formats.find("inspect_ai")(log)["score::mock/model"].to_list() == [0.5, 0.75, 0.125]


# --- which score -------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["accuracy", "score"])
def test_a_routerarena_file_with_a_score_below_0_is_read(tmp_path: Path, field: str):
    if field == "accuracy":
        path = tmp_path / "p.json"
        path.write_text(json.dumps([prediction(0, "m", accuracy=-0.02), prediction(1, "m")]))
    else:
        row = {"global_index": "a_1", "question": "Why?", "llm_selected": "m"}
        scores = [{"score": -0.02, "metric": "meteor"}, {"score": 0.0}]
        rows = [
            row | {"evaluation_result": score, "global_index": f"a_{n}"}
            for n, score in enumerate(scores)
        ]
        path = lines(tmp_path / "m.jsonl", rows)
    with pytest.warns(DataWarning, match="1 scores just below 0 .* are read as 0"):
        assert formats.find("routerarena")(path)["score::m"].to_list() == [0.0, 0.0]


def test_minus_one_is_no_score(tmp_path: Path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps([prediction(0, "m", accuracy=-1)]))
    with pytest.raises(BadTable, match=r"score::m is -1 .* must be in 0..1"):
        run("routerarena", path, "--out", tmp_path / "o.parquet")


def test_an_object_of_scores_needs_a_name_if_it_has_several(tmp_path: Path):
    one, two = {"pass@1": 1.0}, {"pass@1": 1.0, "bleu": 0.5}
    path = lines(tmp_path / "x.jsonl", [routed(0, "a", performance=one), routed(0, "b")])
    assert converted(tmp_path, "llmrouter", path)["score::a"].to_list() == [1.0]
    path = lines(tmp_path / "x.jsonl", [routed(0, "a", performance=two)])
    with pytest.raises(BadTable, match=r"has pass@1, bleu: choose one .* with --metric NAME"):
        run("llmrouter", path, "--out", tmp_path / "o.parquet")
    frame = converted(tmp_path, "llmrouter", path, "--metric", "bleu")
    assert frame["score::a"].to_list() == [0.5]


def inspect_log(folder: Path, *scores: dict) -> Path:
    samples = [
        {"id": n, "epoch": 1, "input": f"q{n}?", "scores": one} for n, one in enumerate(scores)
    ]
    path = folder / "log.json"
    path.write_text(json.dumps({"eval": {"task": "t", "model": "m"}, "samples": samples}))
    return path


def test_inspects_scorer_is_the_same_on_every_sample(tmp_path: Path):
    grade = {"judge": {"value": "C"}, "words": {"value": 0.25}}
    path = inspect_log(tmp_path, {"words": {"value": 0.5}}, {"words": {"value": 1}}, grade)
    assert formats.find("inspect_ai")(path)["score::m"].to_list() == [0.5, 1.0, 0.25]
    frame = converted(tmp_path, "inspect_ai", path, "--metric", "judge")
    assert frame["score::m"].to_list() == [None, None, 1.0]
    with pytest.raises(BadTable, match="no score 'tone'; it has words, judge"):
        run("inspect_ai", path, "--out", tmp_path / "o.parquet", "--metric", "tone")


def test_inspects_scores_may_be_objects(tmp_path: Path):
    scores = [{"graded": {"value": {"stars": 4, "facts": n, "tone": "C"}}} for n in (0, 1)]
    path = inspect_log(tmp_path, *scores)
    assert formats.find("inspect_ai")(path)["score::m"].to_list() == [0.0, 1.0]
    frame = converted(tmp_path, "inspect_ai", path, "--metric", "graded.tone")
    assert frame["score::m"].to_list() == [1.0, 1.0]


def test_lm_evals_metric_is_that_of_most_rows_not_of_the_first(tmp_path: Path):
    row = {"filtered_resps": ["x"], "metrics": ["acc"], "acc": 1.0}
    rows = [row | {"doc_id": 0, "f1": 0.0}]
    rows += [{"doc_id": n, "filtered_resps": ["x"], "metrics": ["f1"], "f1": 0.5} for n in (1, 2)]
    path = lines(tmp_path / "m" / "samples_t.jsonl", rows)
    assert formats.find("lm_eval")(path)["score::m"].to_list() == [None, 0.5, 0.5]
    row = {"doc_id": 0, "filtered_resps": ["x"], "metrics": ["judge"], "judge": {"ok": 1, "n": 9}}
    path = lines(tmp_path / "m" / "samples_u.jsonl", [row])
    assert formats.find("lm_eval")(path)["score::m"].to_list() == [1.0]


def test_an_option_that_a_format_does_not_use_is_refused(tmp_path: Path):
    for flags, message in (
        (("--metric", "f1"), "--metric has no meaning for 'routellm': leave it out"),
        (("--scale", "1..10"), "--scale has no meaning for 'routellm'"),
        (("--column", "id=x"), "--column has no meaning for 'routellm'"),
        (("--rows", "x"), "--rows has no meaning for 'routellm'"),
    ):
        with pytest.raises(BadInput, match=message):
            run("routellm", tmp_path / "x.csv", "--out", tmp_path / "o.parquet", *flags)


def test_duplicate_rows_of_a_source_offer_to_keep_the_first(tmp_path: Path):
    path = lines(tmp_path / "x.jsonl", [routed(0, "a"), routed(0, "a", performance=1.0)])
    with pytest.raises(BadTable, match=r"two rows for 'a' .* or use --drop-duplicates"):
        run("llmrouter", path, "--out", tmp_path / "o.parquet")
    with pytest.warns(DataWarning, match="1 row repeats another and is dropped"):
        frame = converted(tmp_path, "llmrouter", path, "--drop-duplicates")
    assert frame["score::a"].to_list() == [0.0]


# --- prices ------------------------------------------------------------------------------------


def routellm(folder: Path, answers: bool) -> Path:
    """Three prompts that `a` answers rightly, and `b` never."""
    path = folder / "gsm8k_responses.csv"
    head = "prompt,a,b" + (",a_response,b_response" if answers else "")
    row = "Why {}?,True," + (",four," if answers else "")
    path.write_text("\n".join([head, *(row.format(n) for n in range(3))]) + "\n")
    return path


def prices(folder: Path, **dollars: float) -> Path:
    path = folder / "prices.json"
    entries = {m: {"input_per_mtok": d, "output_per_mtok": 2 * d} for m, d in dollars.items()}
    path.write_text(json.dumps(entries))
    return path


def test_texts_give_costs_where_no_tokens_were_counted(tmp_path: Path):
    with pytest.warns(DataWarning, match="3 of 'a' from texts, at 4 characters a token"):
        frame = converted(
            tmp_path,
            "routellm",
            routellm(tmp_path, True),
            "--prices",
            prices(tmp_path, a=1e6, b=1e6),
        )
    assert frame["cost::a"].to_list() == [2 + 2 * 1] * 3  # "Why 0?" has 6 letters, "four" has 4


def test_prices_that_no_row_can_use_are_an_error(tmp_path: Path):
    path = routellm(tmp_path, answers=False)
    with pytest.raises(BadInput, match=r"of no use: 3 answers .* give --price-per-call EXPERT=US"):
        converted(tmp_path, "routellm", path, "--prices", prices(tmp_path, a=1))
    assert not (tmp_path / "o.parquet").exists()


def test_prices_that_are_not_needed_say_so(tmp_path: Path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps([prediction(0, "small")]))
    with pytest.warns(DataWarning, match="--prices gave no cost: all are recorded"):
        frame = converted(tmp_path, "routerarena", path, "--prices", prices(tmp_path, small=1))
    assert frame["cost::small"].to_list() == [1e-4]


def test_a_price_per_call_fills_the_costs_of_answers(tmp_path: Path):
    path = routellm(tmp_path, answers=False)
    flags = ("--price-per-call", "a=0.002", "--price-per-call", "b=1/1000")
    with pytest.warns(DataWarning, match="gave costs to 3 answers of 'a', 0 answers of 'b"):
        frame = converted(tmp_path, "routellm", path, *flags)
    assert frame["cost::a"].to_list() == [0.002] * 3
    assert frame["cost::b"].to_list() == [None] * 3  # it was never scored


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("a", "'a' is not understood: write EXPERT=US"),
        ("a=cheap", "--price-per-call a=cheap: cost 'cheap' is not understood"),
        ("a=-1", "-1"),
        ("zz=1", "no expert 'zz'"),
    ],
)
def test_a_wrong_price_per_call_is_refused(tmp_path: Path, entry: str, message: str):
    path = routellm(tmp_path, answers=False)
    with pytest.raises(BadInput, match=message):
        converted(tmp_path, "routellm", path, "--price-per-call", entry)


# --- splits and groups -------------------------------------------------------------------------


def many(folder: Path, name: str = "data.jsonl", n: int = 400, **other: object) -> Path:
    return lines(folder / name, [routed(i, "a", **other) for i in range(n)])


def test_a_query_has_the_same_split_in_every_table(tmp_path: Path):
    frame = converted(tmp_path, "llmrouter", many(tmp_path))
    counts = dict(frame["split"].value_counts().iter_rows())
    assert all(60 <= counts[name] <= 100 for name in ("dev", "test"))
    of = dict(frame.select("prompt", "split").iter_rows())
    rows = [{"prompt": prompt, "a": "True"} for prompt in [*of][::-2]]
    path = tmp_path / "other.json"
    path.write_text(json.dumps(rows))
    other = converted(tmp_path, "routellm", path)
    assert all(of[prompt] == split for prompt, split in other.select("prompt", "split").iter_rows())


def test_the_share_of_the_held_out_splits_is_an_option(tmp_path: Path):
    path = many(tmp_path)
    assert set(converted(tmp_path, "llmrouter", path, "--hold-out", 0)["split"]) == {"train"}
    halves = converted(tmp_path, "llmrouter", path, "--hold-out", 0.5)["split"]
    assert set(halves) == {"dev", "test"}


def test_a_split_of_the_source_stays(tmp_path: Path):
    frame = converted(tmp_path, "llmrouter", many(tmp_path, "my_val_data.jsonl"))
    assert set(frame["split"]) == {"dev"}


def test_wordings_of_one_question_share_group_and_split(tmp_path: Path):
    head = "sample_id,prompt,eval_name,m,m|total_cost\n"
    rows = [f"q{n // 3},['Wording {n}'],quiz,1,1\n" for n in range(300)]
    path = tmp_path / "bench.csv"
    path.write_text(head + "".join(rows[::-1]))
    backwards = dict(converted(tmp_path, "routerbench", path).select("prompt", "split").iter_rows())
    path.write_text(head + "".join(rows))
    frame = converted(tmp_path, "routerbench", path)
    assert dict(frame.select("prompt", "split").iter_rows()) == backwards
    assert frame["group"].n_unique() == 100
    assert frame.group_by("group").agg(pl.col("split").n_unique())["split"].max() == 1
    assert len(set(outcomes.read(tmp_path / "o.parquet").groups)) == 100


def test_the_column_group_says_what_is_one_piece_of_evidence(tmp_path: Path):
    rows = [{"id": n, "prompt": f"q{n}", "group": n // 2, "score::a": 1} for n in range(4)]
    rows[3]["group"] = None
    groups = outcomes.read(lines(tmp_path / "t.jsonl", rows)).groups
    assert groups[0] == groups[1] == "0"
    assert len({*groups}) == 3


# --- judgments ---------------------------------------------------------------------------------


def alpaca(n: int, preference: float | None, **other: object) -> dict:
    row = {"instruction": f"Say {n}.", "output_1": "r", "generator_1": "ref", "output_2": f"m{n}"}
    row |= {"generator_2": "mine", "dataset": "koala", "annotator": "gpt"}
    return row | {"preference": preference} | other


def test_alpaca_evals_preferences_are_win_rates(tmp_path: Path):
    path = tmp_path / "annotations.json"
    rows = [alpaca(0, 2.0), alpaca(1, 1.25), alpaca(2, 0), alpaca(3, None), alpaca(4, math.nan)]
    path.write_text(json.dumps(rows))
    frame = converted(tmp_path, "alpaca_eval", path)
    assert frame["score::mine"].to_list() == [1.0, 0.25, 0.5, None, None]
    assert frame["score::ref"].to_list()[:3] == [0.5] * 3
    assert frame["domain"][0] == "koala"
    assert frame["answer::mine"][1] == "m1"
    other = tmp_path / "other.json"
    other.write_text(json.dumps([alpaca(n, 1.5, generator_2="other") for n in range(5)]))
    outputs = tmp_path / "model_outputs.json"
    rows = [{"instruction": f"Say {n}.", "output": "z", "generator": "third"} for n in range(5)]
    outputs.write_text(json.dumps(rows))
    joined = converted(tmp_path, "alpaca_eval", path, other, outputs)
    assert len(joined) == 5
    assert joined["score::other"].to_list() == [0.5] * 5
    assert joined["answer::third"].to_list() == ["z"] * 5


def test_alpaca_evals_pairs_without_one_reference_score_both(tmp_path: Path):
    rows = [alpaca(0, 1.25), alpaca(0, 1.75), alpaca(1, 2, generator_1="mine", generator_2="ref")]
    frame = converted(tmp_path, "alpaca_eval", lines(tmp_path / "a.jsonl", rows))
    assert frame.select("score::mine", "score::ref").rows() == [(0.5, 0.5), (0.0, 1.0)]
    path = lines(tmp_path / "a.jsonl", [alpaca(0, 3)])
    with pytest.raises(BadTable, match=r"line 1: preference is 3 and must be in 1..2"):
        formats.find("alpaca_eval")(path)


def mt_bench(folder: Path) -> tuple[Path, Path, Path]:
    questions = [
        {"question_id": n, "category": "maths", "turns": [f"q{n}?", "Sure?"]} for n in (81, 82)
    ]
    answers = [
        {"question_id": n, "model_id": "m", "choices": [{"index": 0, "turns": ["yes", "no"]}]}
        for n in (81, 82)
    ]
    judged = [
        {"question_id": 81, "model": "m", "score": 10, "turn": 1, "judge": ["gpt-4", "single"]},
        {"question_id": 81, "model": "m", "score": 1, "turn": 2, "judge": ["gpt-4", "single"]},
        {"question_id": 82, "model": "m", "score": -1, "turn": 1, "judge": ["gpt-4", "single"]},
    ]
    return (
        lines(folder / "question.jsonl", questions),
        lines(folder / "m.jsonl", answers),
        lines(folder / "gpt-4_single.jsonl", judged),
    )


def test_mt_benchs_questions_answers_and_judgments_make_a_table(tmp_path: Path):
    frame = converted(tmp_path, "mt_bench", *mt_bench(tmp_path))
    assert frame.select("prompt", "domain", "score::m", "answer::m").rows() == [
        ("q81?", "maths", 0.5, "yes"),
        ("q82?", "maths", None, "yes"),
    ]
    _, answers, judged = mt_bench(tmp_path)
    with pytest.raises(BadTable, match="neither `prompt` nor `messages`"):
        converted(tmp_path, "mt_bench", answers, judged)


def test_mt_benchs_pairs_are_won_lost_or_tied(tmp_path: Path):
    def pair(n: int, first: str, second: str) -> dict:
        models = {"model_1": "a", "model_2": "b", "turn": 1}
        return {"question_id": n, **models, "g1_winner": first, "g2_winner": second}

    pairs = [
        pair(81, "model_1", "model_1"),
        pair(82, "model_1", "model_2"),
        pair(81, "tie", "error"),
    ]
    path = lines(tmp_path / "gpt-4_pair.jsonl", pairs)
    frame = converted(tmp_path, "mt_bench", mt_bench(tmp_path)[0], path)
    assert frame.select("score::a", "score::b").rows() == [(1.0, 0.0), (0.5, 0.5)]
    with pytest.raises(BadTable, match="line 1 is no question, answer or judgment of MT-Bench"):
        formats.find("mt_bench")(lines(tmp_path / "x.jsonl", [{"question_id": 1}]))


def test_wildbenchs_scores_and_comparisons(tmp_path: Path):
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    chat.append({"role": "user", "content": "Why?"})
    questions = [
        {"session_id": "s1", "conversation_input": chat, "primary_tag": "Planning"},
        {"session_id": "s2", "conversation_input": chat[:1], "primary_tag": "Maths"},
    ]
    path = tmp_path / "wildbench.json"
    path.write_text(json.dumps(questions))
    judged = [
        {"session_id": "s1", "generator": "m", "model_output": ["because"], "last_query": "Why?",
         "history": "USER: Hi", "parsed_result": {"score": "10"}},
        {"session_id": "s2", "generator": "m", "model_output": ["hi"], "last_query": "Hi",
         "history": "", "parsed_result": {"N/A": "N/A"}},
    ]  # fmt: skip
    pairs = [
        {"session_id": n, "generator": "n", "model_output": "x", "ref_output": "y",
         "assignment": {"A": "ref", "B": "n"}, "parsed_result": {"choice": choice}}
        for n, choice in (("s1", "B+"), ("s2", "A"))
    ]  # fmt: skip
    files = [lines(tmp_path / f"{n}.jsonl", rows) for n, rows in enumerate((judged, pairs))]
    frame = converted(tmp_path, "wildbench", path, *files)
    names = ["domain", "score::m", "score::n", "score::ref", "answer::ref"]
    assert frame.select(names).rows() == [
        ("Planning", 1.0, 0.75, 0.25, "y"),
        ("Maths", None, 0.0, 1.0, "y"),
    ]
    queries = outcomes.read(tmp_path / "o.parquet").queries
    assert [len(query.messages) for query in queries] == [3, 1]


# --- any rows ----------------------------------------------------------------------------------


def columns(**paths: str) -> list[str]:
    return [part for name, path in paths.items() for part in ("--column", f"{name}={path}")]


def promptfoo(folder: Path) -> Path:
    results = [
        {
            "testIdx": test,
            "vars": {"question": f"{test} + {test}?"},
            "prompt": {"raw": f"Answer: {test} + {test}?", "label": "Answer: {{question}}"},
            "provider": {"id": model, "label": ""},
            "response": {"output": "4", "tokenUsage": {"prompt": 5, "completion": 1}},
            "success": model == "openai:b",
            "namedScores": {"tone": 0.5},
            "cost": 0.001,
            "latencyMs": 12,
        }
        for test in range(2)
        for model in ("openai:a", "openai:b")
    ]
    path = folder / "results.json"
    prompts = [{"raw": "Answer: {{question}}"}]
    document = {"evalId": "e", "results": {"version": 3, "prompts": prompts, "results": results}}
    path.write_text(json.dumps(document))
    return path


def test_a_promptfoo_export_is_read_by_naming_its_columns(tmp_path: Path):
    path = promptfoo(tmp_path)
    named = columns(prompt="vars.question", model="provider.label,provider.id", score="success")
    with pytest.raises(BadInput, match=r"--rows, of results.prompts \(1\), results.results"):
        converted(tmp_path, "generic", path, *named)
    named += columns(answer="response.output", cost="cost", in_tokens="response.tokenUsage.prompt")
    named += columns(group="testIdx")
    frame = converted(tmp_path, "generic", path, "--rows", "results.results", *named)
    assert frame["prompt"].to_list() == ["0 + 0?", "1 + 1?"]
    assert frame.select("score::openai:a", "score::openai:b").rows() == [(0.0, 1.0)] * 2
    assert frame["in_tokens::openai:b"].to_list() == [5.0, 5.0]
    named[5] = "score=namedScores.tone"
    named += columns(latency="latencyMs")
    frame = converted(tmp_path, "generic", path, "--rows", "results.results", *named)
    assert frame["score::openai:a"].to_list() == [0.5, 0.5]
    assert frame["latency::openai:a"].to_list() == [0.012, 0.012], "the column is in ms"


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("took_ms", 0.25),
        ("durationMs", 0.25),
        ("latency (ms)", 0.25),
        ("elapsed_milliseconds", 0.25),
        ("ms", 0.25),
        ("latency", 250.0),
        ("items", 250.0),
        ("seconds,took_ms", 0.25),
    ],
)
def test_a_latency_in_milliseconds_becomes_seconds(tmp_path: Path, name: str, seconds: float):
    row = {"p": "q?", "s": 1, name.split(",")[-1]: 250}
    path = lines(tmp_path / "x.jsonl", [row])
    frame = converted(tmp_path, "generic", path, *columns(prompt="p", score="s", latency=name))
    assert frame["latency::x"].to_list() == [seconds]


def test_a_helm_run_is_joined_from_its_files(tmp_path: Path):
    instances = [{"id": f"id{n}", "input": {"text": f"q{n}?"}, "split": "test"} for n in range(3)]
    predictions = [
        {"instance_id": f"id{n}", "train_trial_index": trial, "predicted_text": " B",
         "stats": {"exact_match": float(n == trial), "num_output_tokens": 1}}
        for n in range(3) for trial in range(2)
    ]  # fmt: skip
    files = [tmp_path / "instances.json", tmp_path / "display_predictions.json"]
    for path, rows in zip(files, (instances, predictions), strict=True):
        path.write_text(json.dumps(rows))
    named = columns(id="instance_id,id", prompt="input.text", answer="predicted_text")
    named += columns(score="stats.exact_match", split="split", out_tokens="stats.num_output_tokens")
    with pytest.warns(DataWarning, match="3 rows repeat a query and a model; their numbers are av"):
        frame = converted(tmp_path, "generic", *files, *named, "--model", "llama")
    assert frame["score::llama"].to_list() == [0.5, 0.5, 0.0]  # the mean over the trials
    assert frame["split"].to_list() == ["test"] * 3
    first = converted(tmp_path, "generic", *files, *named, "--model", "llama", "--drop-duplicates")
    assert first["score::llama"].to_list() == [1.0, 0.0, 0.0]


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_langfuse_export_has_chats_and_lists_of_scores(tmp_path: Path, ending: str):
    rows = [
        {
            "id": f"obs-{n}",
            "name": "chat",
            "input": {"messages": [{"role": "system", "content": "Be brief."},
                                   {"role": "user", "content": f"q{n // 2}?"}]},
            "output": {"role": "assistant", "content": "yes"},
            "model": ("a", "b")[n % 2],
            "totalCost": 0.5,
            "scores": [{"name": "tone", "value": 1}, {"name": "facts", "value": 1 + n}],
        }
        for n in range(4)
    ]  # fmt: skip
    path = tmp_path / f"observations.{ending}"
    if ending == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:
                cells = {k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()}
                writer.writerow(cells)
    else:
        lines(path, rows)
    named = columns(prompt="input", answer="output.content", model="model", cost="totalCost")
    named += columns(score="scores[name=facts].value")
    with pytest.raises(BadTable, match=r"score is 2 and must be in 0..1: name its scale"):
        converted(tmp_path, "generic", path, *named)
    frame = converted(tmp_path, "generic", path, *named, "--scale", "1..5")
    assert frame.select("score::a", "score::b").rows() == [(0.0, 0.25), (0.5, 0.75)]
    assert frame["answer::a"].to_list() == ["yes", "yes"]
    queries = outcomes.read(tmp_path / "o.parquet").queries
    assert [message["role"] for message in queries[0].messages] == ["system", "user"]


def test_a_scale_may_run_the_other_way_and_words_may_be_scores(tmp_path: Path):
    path = lines(tmp_path / "x.jsonl", [{"p": "q?", "rank": 1}, {"p": "r?", "rank": 5}])
    named = columns(prompt="p", score="rank")
    frame = converted(tmp_path, "generic", path, *named, "--scale", "5..1", "--model", "m")
    assert frame["score::m"].to_list() == [1.0, 0.0]
    path = lines(tmp_path / "y.jsonl", [{"p": "q?", "rank": "PASS"}, {"p": "r?", "rank": "Fail"}])
    assert converted(tmp_path, "generic", path, *named)["score::y"].to_list() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "'generic' needs the columns: --column prompt="),
        (columns(promt="p", score="s"), "--column promt=…: our columns are id, prompt"),
        (["--column", "prompt"], "'prompt' is not understood: write OURS=THEIRS"),
        (
            columns(prompt="q", score="z"),
            r"has no q \(for prompt\), z \(for score\); it has p, s.x",
        ),
        ([*columns(prompt="p"), "--scale", "ten"], "--scale 'ten' is not understood: write"),
        ([*columns(prompt="p"), "--scale", "1..1"], "--scale '1..1' has no width"),
        ([*columns(prompt="p"), "--rows", "x"], "--rows names a list in a JSON document"),
        (columns(prompt="p", score="s.t"), "score is 'good' and must be a number"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, flags: list[str], message: str):
    path = lines(tmp_path / "x.jsonl", [{"p": "q?", "s": {"x": 1, "t": "good"}}])
    with pytest.raises(BadInput, match=message):
        run("generic", path, "--out", tmp_path / "o.parquet", *flags)


def test_a_column_that_is_not_there_is_said(tmp_path: Path):
    path = lines(tmp_path / "x.jsonl", [{"p": "q?", "s": 1}])
    with pytest.warns(DataWarning, match=r"has no usd \(for cost\); it has p, s"):
        converted(tmp_path, "generic", path, *columns(prompt="p", score="s", cost="usd"))
