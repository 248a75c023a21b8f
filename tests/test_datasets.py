"""Public data formats: what becomes of them, what is refused, and that nothing is executed."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path

import polars as pl
import pytest
import typer
from typer.testing import CliRunner

from routewright.cli.convert import convert
from routewright.data import formats, outcomes
from routewright.data.pricing import priced
from routewright.errors import BadInput, BadTable, DataWarning
from routewright.fitting.fit import fit

FIXTURES = Path(__file__).parent / "fixtures"


def run(*arguments: object) -> dict:
    """`routewright convert … --json`, with errors as they are."""
    app = typer.Typer()
    app.command()(convert)
    result = CliRunner().invoke(app, [str(a) for a in (*arguments, "--json")])
    if result.exception is not None:
        raise result.exception
    return json.loads(result.stdout)


def price(dollars: float) -> dict:
    return {"input_per_mtok": dollars, "output_per_mtok": dollars}


def lines(path: Path, rows: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- one file of each format -----------------------------------------------------------------


def routerbench(folder: Path) -> Path:
    return FIXTURES / "routerbench_pandas2.pkl"


def routerarena(folder: Path) -> Path:
    path = folder / "my-router.json"
    path.write_text(json.dumps([prediction(i, ("small", "large")[i % 2]) for i in range(6)]))
    return path


def prediction(i: int, model: str, **other) -> dict:
    usage = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
    return {
        "global index": f"ArcMMLU_{i}",
        "prompt": f"Question {i}",
        "prediction": model,
        "generated_result": {"generated_answer": "A", "success": True, "token_usage": usage},
        "cost": 1e-4,
        "accuracy": float(i % 3 == 0),
    } | other


def routellm(folder: Path) -> Path:
    path = folder / "gsm8k_responses.csv"
    path.write_text(
        "prompt,mixtral,gpt-4,mixtral_response,gpt-4_response\n"
        '"How many, in\nall?",True,True,4,4\nAnd now?,False,True,"5\n",6\nWhy?,,False,,no\n'
    )
    return path


def llmrouter(folder: Path, n: int = 3) -> Path:
    return lines(
        folder / "default_routing_train_data.jsonl",
        [routed(i, model) for i in range(n) for model in ("small", "large")],
    )


def routed(i: int, model: str, **other) -> dict:
    return {
        "task_name": ("sums", "words")[i % 2],
        "query": f"{('add up', 'spell')[i % 2]} number {i}",
        "ground_truth": str(i),
        "metric": "em",
        "model_name": model,
        "response": str(i),
        "token_num": 120,
        "input_tokens": 100,
        "output_tokens": 20,
        "response_time": 1.5,
        "performance": 1.0 if model == "large" or i % 2 else 0.0,
        "user_id": None,
    } | other


def embedllm(folder: Path) -> Path:
    path = folder / "val.csv"
    path.write_text(
        "prompt_id,model_id,model_name,category_id,label,prompt\n"
        "7,0,small,2,0,Why?\n7,0,small,2,1,Why?\n7,1,large,2,1,Why?\n8,0,small,3,0,How?\n"
    )
    return path


def lm_eval(folder: Path) -> Path:
    return lines(
        folder / "meta-llama__Llama-3-8B" / "samples_gsm8k_2025-01-31T10-00-00.123.jsonl",
        [
            {
                "doc_id": i,
                "doc": {"question": f"Question {i}"},
                "target": str(i),
                "arguments": {"gen_args_0": {"arg_0": f"Question {i}\nAnswer:", "arg_1": {}}},
                "resps": [[f"It is {i}."]],
                "filtered_resps": [str(i)],
                "filter": kind,
                "metrics": ["exact_match"],
                "exact_match": float(kind == "strict-match" and i > 0),
            }
            for kind in ("strict-match", "flexible-extract")
            for i in range(4)
        ],
    )


def inspected() -> dict:
    usage = {"input_tokens": 10, "output_tokens": 5, "input_tokens_cache_read": 2}
    said = ("C", "I", "P", "C", 0.25, "N")
    return {
        "version": 2,
        "status": "success",
        "eval": {"task": "sums", "model": "mock/model"},
        "samples": [
            {
                "id": i // 2,
                "epoch": i % 2 + 1,
                "input": f"What is {i // 2} + 1?",
                "target": str(i // 2 + 1),
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": [{"type": "text", "text": f"{i // 2} + 1 = ?"}]},
                    {"role": "assistant", "content": "1"},
                    {"role": "user", "content": "Sure?"},
                ],
                "output": {"completion": "1", "usage": usage, "time": 0.5},
                "scores": {"match": {"value": value}},
                "model_usage": {"mock/model": usage, "mock/judge": {"input_tokens": 999}},
            }
            for i, value in enumerate(said)
        ],
    }


def inspect_ai(folder: Path) -> Path:
    path = folder / "log.json"
    path.write_text(json.dumps(inspected()))
    return path


EXAMPLES = (embedllm, inspect_ai, llmrouter, lm_eval, routellm, routerarena, routerbench)


# --- claims ----------------------------------------------------------------------------------


IN_TEST_CONVERT = {"alpaca_eval", "generic", "mt_bench", "wildbench"}


def test_every_format_has_an_example_here_or_in_test_convert():
    assert {*formats.names()} == {example.__name__ for example in EXAMPLES} | IN_TEST_CONVERT


def test_the_help_names_every_format():
    app = typer.Typer()
    app.command()(convert)
    shown = CliRunner().invoke(app, ["--help"], terminal_width=200).stdout
    assert [name for name in formats.names() if name not in shown] == []


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_format_becomes_a_valid_outcome_table(tmp_path: Path, example):
    out = tmp_path / "outcomes.parquet"
    summary = run(example.__name__, example(tmp_path), "--out", out)
    rows = outcomes.read(out)
    assert summary["rows"] == len(rows) > 0
    assert tuple(summary["experts"]) == rows.experts
    assert all(query.text and query.domain for query in rows.queries)
    assert [path.name for path in tmp_path.glob("*.partial")] == []


@pytest.mark.parametrize("version", [1, 2, 3])
def test_routerbench_pickles_of_every_pandas_are_read_without_pandas(version):
    frame = formats.find("routerbench")(FIXTURES / f"routerbench_pandas{version}.pkl")
    assert frame["id"][5] == "mmlu-sums.val.5"
    assert frame["prompt"][0] == "What is 0 + 1?\nAnswer with a number."
    assert frame["domain"].to_list() == ["mmlu-sums"] * 4 + ["grade-school-math"] * 2
    assert frame["score::small"].to_list() == [1.0, 0.0, 0.5, 1.0, None, 0.0]
    assert frame["score::large"].to_list() == [1, 1, 1, 1, 0, 1]
    assert frame["cost::large"].to_list() == [i * 1e-3 for i in range(6)]
    assert frame["answer::small"].to_list() == ["1", None, "3", "4", "?", "7"]


def test_routerbench_as_csv_is_the_same_table(tmp_path: Path):
    path = tmp_path / "routerbench.csv"
    path.write_text(
        "sample_id,prompt,eval_name,m,m|model_response,m|total_cost\n"
        "a.1,\"['Why, ', 'then?']\",mmlu,1.0,['x'],0.001\na.2,How?,mmlu,,,\n"
    )
    frame = formats.find("routerbench")(path)
    assert frame["prompt"].to_list() == ["Why, \nthen?", "How?"]
    assert frame.select("score::m", "cost::m", "answer::m").row(0) == (1.0, 0.001, "x")
    assert frame.select("score::m", "cost::m", "answer::m").row(1) == (None, None, None)


class Evil:
    """Unpickled by pickle.load, it would write a file."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_runs_nothing(tmp_path: Path, protocol: int):
    import os

    ran = tmp_path / "ran"
    path = tmp_path / "routerbench_0shot.pkl"
    path.write_bytes(pickle.dumps(Evil(os.system, f"touch {ran}"), protocol=protocol))
    with pytest.raises(BadTable, match=r"'posix.system'.* refused, nothing of it was run"):
        formats.find("routerbench")(path)
    assert not ran.exists()
    pickle.loads(path.read_bytes())  # noqa: S301  # the trap is real
    assert ran.exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "__import__"])
def test_other_builtins_are_refused_by_name(tmp_path: Path, name: str):
    path = tmp_path / "evil.pkl"
    path.write_bytes(f"cbuiltins\n{name}\n(S'1'\ntR.".encode())
    with pytest.raises(BadTable, match=f"'builtins.{name}'"):
        formats.find("routerbench")(path)


def test_even_the_allowed_names_call_nothing(tmp_path: Path):
    """`pandas.eval` is not allowed; `pandas.x.DataFrame` is, and is only remembered."""
    path = tmp_path / "evil.pkl"
    path.write_bytes(b"cpandas.nowhere\nDataFrame\n(S'1'\ntR.")
    with pytest.raises(BadTable, match="DataFrame is not a DataFrame as pandas"):
        formats.find("routerbench")(path)
    path.write_bytes(b"cpandas\neval\n(S'1'\ntR.")
    with pytest.raises(BadTable, match=r"'pandas.eval'"):
        formats.find("routerbench")(path)


@pytest.mark.parametrize("length", [0, 1, 300, 1200])
def test_a_cut_pickle_is_refused(tmp_path: Path, length: int):
    path = tmp_path / "cut.pkl"
    path.write_bytes((FIXTURES / "routerbench_pandas2.pkl").read_bytes()[:length])
    with pytest.raises(BadTable, match="not a pickled pandas table"):
        formats.find("routerbench")(path)


def test_several_router_predictions_are_joined_into_one_table(tmp_path: Path):
    other = tmp_path / "other.json"
    other.write_text(json.dumps([prediction(i, ("large", "small")[i % 2]) for i in range(6)]))
    out = tmp_path / "o.parquet"
    run("routerarena", routerarena(tmp_path), other, "--out", out)
    rows = outcomes.read(out)
    assert rows.score.shape == (6, 2)
    assert (rows.cost == 1e-4).all()
    assert set(rows.domains) == {"ArcMMLU"}


def test_routerarenas_optimality_rows_may_repeat_the_routers_own(tmp_path: Path):
    path = tmp_path / "p.json"
    entries = [prediction(0, "small"), prediction(0, "small", for_optimality=True)]
    path.write_text(json.dumps([*entries, prediction(0, "large", for_optimality=True)]))
    assert len(formats.find("routerarena")(path)) == 1
    path.write_text(json.dumps([*entries, prediction(0, "small", accuracy=0.5)]))
    with pytest.raises(BadTable, match="query 'ArcMMLU_0' has two rows for 'small'"):
        formats.find("routerarena")(path)


def test_routerarenas_cached_results_are_one_expert(tmp_path: Path):
    graded = {"score": 1.0, "metric": "mcq_accuracy", "inference_cost": 2e-4}
    row = {
        "global_index": "AIME_112",
        "question": "How many?",
        "llm_selected": "small",
        "generated_answer": "\\boxed{1}",
        "token_usage": {"input_tokens": 3, "output_tokens": 4},
        "evaluation_result": graded,
    }
    frame = formats.find("routerarena")(lines(tmp_path / "small.jsonl", [row]))
    assert frame.select("id", "domain", "score::small", "cost::small").row(0) == (
        *("AIME_112", "AIME", 1.0, 2e-4),
    )


def test_routellm_scores_are_truths_and_a_blank_is_unknown(tmp_path: Path):
    frame = formats.find("routellm")(routellm(tmp_path))
    assert frame["score::mixtral"].to_list() == [1.0, 0.0, None]
    assert frame["score::gpt-4"].to_list() == [1.0, 1.0, 0.0]
    assert frame["answer::gpt-4"].to_list() == ["4", "6", "no"]
    assert frame["id"][0] == "gsm8k_responses/1"
    assert not any(name.startswith("cost::") for name in frame.columns)


def test_a_router_is_fitted_on_converted_data(tmp_path: Path):
    out = tmp_path / "o.parquet"
    prices = tmp_path / "prices.yaml"
    prices.write_text(
        "small: {input_per_mtok: 0.1, output_per_mtok: 0.4}\n"
        "large: {input_price: 2.5, output_price: 10}\n"
    )
    run("llmrouter", llmrouter(tmp_path, n=60), "--out", out, "--prices", prices)
    rows = outcomes.read(out, split="train")
    assert rows.cost[0] == pytest.approx([(100 * 0.1 + 20 * 0.4) / 1e6, (250 + 200) / 1e6])
    assert rows.measures["latency"][0].tolist() == [1.5, 1.5]
    router = fit(rows, predictor="prior", encoder="surface")
    assert router.experts == ("small", "large")


def test_unknown_costs_stay_unknown(tmp_path: Path):
    path = lines(
        tmp_path / "x.jsonl",
        [routed(0, "small"), routed(1, "small", output_tokens=None), routed(0, "large")],
    )
    frame = priced(formats.find("llmrouter")(path), {"small": price(1)})
    assert frame["cost::small"].to_list() == [pytest.approx(120e-6), None]
    assert "cost::large" not in frame.columns


def test_recorded_costs_are_kept(tmp_path: Path):
    frame = formats.find("routerarena")(routerarena(tmp_path))
    again = priced(frame, {"small": price(1e6), "large": price(1e6)})
    assert again["cost::small"].drop_nulls().unique().to_list() == [1e-4]


def test_embedllm_takes_the_highest_label_and_the_split_of_the_file(tmp_path: Path):
    frame = formats.find("embedllm")(embedllm(tmp_path))
    assert frame["score::small"].to_list() == [1.0, 0.0]
    assert frame["score::large"].to_list() == [1.0, None]
    assert frame["split"].to_list() == ["dev", "dev"]


def test_lm_eval_counts_the_first_filter_and_names_the_model_by_its_folder(tmp_path: Path):
    frame = formats.find("lm_eval")(lm_eval(tmp_path))
    assert frame["score::meta-llama/Llama-3-8B"].to_list() == [0.0, 1.0, 1.0, 1.0]
    assert frame["id"][1] == "gsm8k/1"
    assert frame["prompt"][1] == "Question 1\nAnswer:"


def test_lm_eval_answers_of_multiple_choice_are_the_likeliest_position(tmp_path: Path):
    row = {
        "doc_id": 0,
        "arguments": {f"gen_args_{k}": {"arg_0": "Q", "arg_1": f" {k}"} for k in range(3)},
        "filtered_resps": [["-3.5", "False"], ["-0.5", "True"], ["-9", "False"]],
        "acc": 1.0,
        "acc_norm": 0.0,
    }
    frame = formats.find("lm_eval")(lines(tmp_path / "m" / "samples_arc.jsonl", [row]))
    assert frame.select("score::m", "answer::m").row(0) == (1.0, "1")


def test_the_expert_of_a_log_can_be_named(tmp_path: Path):
    out = tmp_path / "o.parquet"
    summary = run("lm_eval", lm_eval(tmp_path), "--out", out, "--model", "llama")
    assert summary["experts"] == {"llama": {"scored": 4, "quality": 0.75, "cost": None}}
    with pytest.raises(BadInput, match="has small, large: leave it out"):
        run("llmrouter", llmrouter(tmp_path), "--out", out, "--model", "llama")


def test_inspects_epochs_are_averaged_and_only_the_models_own_tokens_count(tmp_path: Path):
    frame = formats.find("inspect_ai")(inspect_ai(tmp_path))
    assert frame["score::mock/model"].to_list() == [0.5, 0.75, 0.125]
    assert frame["in_tokens::mock/model"].to_list() == [12.0] * 3
    assert frame["prompt"][0] == "0 + 1 = ?"


def test_an_eval_file_is_the_same_log_in_a_zip(tmp_path: Path):
    log = inspected()
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for sample in log["samples"]:
            name = f"samples/{sample['id']}_epoch_{sample['epoch']}.json"
            archive.writestr(name, json.dumps(sample))
        archive.writestr("header.json", json.dumps(log | {"samples": None}))
    frame = formats.find("inspect_ai")(path)
    assert frame.equals(formats.find("inspect_ai")(inspect_ai(tmp_path)))


@pytest.mark.parametrize(
    ("format", "name", "content", "message"),
    [
        ("routellm", "x.csv", "question,a\nWhy?,True\n", r"'.*x.csv' has no prompt; it has que"),
        ("routellm", "x.csv", "prompt,a\nWhy?,0.7\n", r"row 1: a is '0.7' and must be True or"),
        ("embedllm", "x.csv", "prompt_id,label,model_id,prompt\n1,yes,2,x\n", r"row 1: label"),
        ("llmrouter", "x.jsonl", '{"query": "Why?"}\n', r"line 1 has no model_name, perform"),
        ("llmrouter", "x.jsonl", "\n{", r"x.jsonl' line 2 is not JSON"),
        ("llmrouter", "x.jsonl", "", r"x.jsonl' has no rows"),
        ("lm_eval", "x.jsonl", '{"doc_id": 1, "filtered_resps": []}', r"no metric in 0..1"),
        ("routerarena", "x.json", "{}", r"x.json' is not a list of predictions"),
        ("routerarena", "x.json", '[{"prompt": "Why?"}]', r"entry 1 has no global index"),
        ("inspect_ai", "x.json", '{"samples": []}', r"x.json' has no eval"),
        ("routerbench", "x.csv", "sample_id,prompt,eval_name,m\n1,a,b,1\n", r"MODEL\|total_cost"),
        ("routerbench", "x.pkl", "not a pickle", r"not a pickled pandas table"),
    ],
)
def test_wrong_files_are_refused_with_the_place(tmp_path: Path, format, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(BadTable, match=message):
        run(format, path, "--out", tmp_path / "o.parquet")
    assert not (tmp_path / "o.parquet").exists()


def test_scores_out_of_range_leave_the_old_table_alone(tmp_path: Path):
    out = tmp_path / "o.parquet"
    run("llmrouter", llmrouter(tmp_path), "--out", out)
    before = out.read_bytes()
    bad = lines(tmp_path / "bad.jsonl", [routed(0, "small", performance=7)])
    with pytest.raises(BadTable, match=r"bad.jsonl': score::small is 7 .* must be in 0..1"):
        run("llmrouter", bad, "--out", out)
    assert out.read_bytes() == before


def test_wrong_options_say_the_way_out(tmp_path: Path):
    path, out = llmrouter(tmp_path), tmp_path / "o.parquet"
    prices = tmp_path / "prices.json"
    with pytest.raises(BadInput, match="no format is called 'helm': choose one of alpaca_eval"):
        run("helm", path, "--out", out)
    with pytest.raises(BadInput, match=r"must end in .parquet"):
        run("llmrouter", path, "--out", tmp_path / "o.csv")
    with pytest.raises(BadTable, match="no file"):
        run("llmrouter", tmp_path / "absent.jsonl", "--out", out)
    prices.write_text('{"gpt": {"input_per_mtok": 1, "output_per_mtok": 2}}')
    with pytest.raises(BadInput, match="the prices are of gpt, the table's experts are small"):
        run("llmrouter", path, "--out", out, "--prices", prices)
    prices.write_text('{"small": {"input_per_mtok": "cheap"}}')
    with pytest.raises(BadInput, match="the price of 'small' must be"):
        run("llmrouter", path, "--out", out, "--prices", prices)


def test_experts_scores_and_costs_are_printed(tmp_path: Path):
    app = typer.Typer()
    app.command()(convert)
    out = tmp_path / "o.parquet"
    result = CliRunner().invoke(app, ["routerarena", str(routerarena(tmp_path)), "--out", str(out)])
    assert "6 rows" in result.stdout
    assert ["small", "3", "33.33", "0.1"] in [
        line.replace("│", " ").split() for line in result.stdout.splitlines()
    ]


def test_half_a_table_keeps_its_unknown_cells(tmp_path: Path):
    path = lines(tmp_path / "x.jsonl", [routed(0, "small"), routed(1, "large")])
    frame = formats.find("llmrouter")(path)
    assert frame["score::large"].to_list() == [None, 1.0]
    assert frame.schema["score::small"] == pl.Float64


# --- rows that belong together, and those that do not ----------------------------------------


def log_of(folder: Path, model: str, documents: list[dict], **other) -> Path:
    """A log of lm-evaluation: `documents` in this order; odd ones are right."""
    return lines(
        folder / model / "samples_sums_2025-01-31T10-00-00.123.jsonl",
        [
            {
                "doc_id": position,
                "doc": document,
                "arguments": {"gen_args_0": {"arg_0": f"<{model}> {document['q']}"}},
                "filtered_resps": [document["a"]],
                "exact_match": float(document["n"] % 2),
                **({"doc_hash": f"hash-of-{document['n']}"} if other.get("hashes") else {}),
            }
            for position, document in enumerate(documents)
        ],
    )


DOCUMENTS = [{"n": n, "q": f"What is {n} + {n}?", "a": str(2 * n)} for n in range(6)]


@pytest.mark.parametrize("order", [DOCUMENTS, DOCUMENTS[::-1], DOCUMENTS[2:], DOCUMENTS[:1] * 2])
def test_logs_are_joined_by_document_whatever_its_position_and_template(tmp_path: Path, order):
    out = tmp_path / "o.parquet"
    logs = [
        log_of(tmp_path, "a", DOCUMENTS, hashes=True),
        log_of(tmp_path, "b", order, hashes=True),
    ]
    run("lm_eval", *logs, "--out", out)
    both = pl.read_parquet(out).drop_nulls(["score::a", "score::b"])
    assert len(both) == len({document["n"] for document in order})
    assert both["score::a"].to_list() == both["score::b"].to_list()


def test_logs_without_hashes_are_refused_where_their_documents_differ(tmp_path: Path):
    out = tmp_path / "o.parquet"
    logs = [log_of(tmp_path, "a", DOCUMENTS), log_of(tmp_path, "b", DOCUMENTS[::-1])]
    with pytest.raises(BadTable, match=r"other prompts under the same id 'sums/0'.*\(6 such rows"):
        run("lm_eval", *logs, "--out", out)
    run("lm_eval", logs[0], log_of(tmp_path, "c", DOCUMENTS), "--out", out)
    assert len(pl.read_parquet(out)) == 6


@pytest.mark.parametrize("unread", ["[invalid]", " [Invalid]", "", "  "])
def test_an_answer_that_no_filter_could_read_is_unknown(tmp_path: Path, unread: str):
    out = tmp_path / "o.parquet"
    documents = [DOCUMENTS[1] | {"a": unread}, DOCUMENTS[2]]
    run("lm_eval", log_of(tmp_path, "a", documents, hashes=True), "--out", out)
    assert pl.read_parquet(out)["answer::a"].to_list() == [None, "4"]
    cached = {"global_index": "q_1", "question": "Why?", "llm_selected": "m"}
    cached |= {"evaluation_result": {"score": 0.0}, "generated_answer": unread}
    run("routerarena", lines(tmp_path / "cached.jsonl", [cached]), "--out", out)
    assert pl.read_parquet(out).to_dicts()[0].get("answer::m") is None


def conversation(i: int, kind: str) -> list[dict] | str:
    question = {"role": "user", "content": f"What is {i} + {i}?"}
    example = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    image = {"type": "image", "image": f"data:image/png;base64,{i:04}"}
    return {
        "few-shot": [*example, question],
        "system": [{"role": "system", "content": f"It is {i} o'clock."}, *example[:1]],
        "last turn is a reply": [*example, question, {"role": "assistant", "content": "Well,"}],
        "image": [{"role": "user", "content": [image, {"type": "text", "text": "What is it?"}]}],
        "text": question["content"],
    }[kind]


@pytest.mark.parametrize("kind", ["few-shot", "system", "last turn is a reply", "image", "text"])
@pytest.mark.parametrize("sources", [True, False])
def test_other_conversations_stay_other_questions(tmp_path: Path, kind: str, sources: bool):
    samples = []
    for i in range(5):
        asked = conversation(i, kind)
        turns = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        sent = [{**turn, **({"source": "input"} if sources else {})} for turn in turns]
        reply = {"role": "assistant", "content": "a reply of the model", "source": "generate"}
        sample = {"id": i, "epoch": 1, "input": asked, "messages": [*sent, reply]}
        samples.append(sample | {"scores": {"match": {"value": "C"}}})
    path, out = tmp_path / "log.json", tmp_path / "o.parquet"
    path.write_text(json.dumps({"eval": {"task": "t", "model": "m"}, "samples": samples}))
    run("inspect_ai", path, "--out", out)
    queries = outcomes.read(out).queries
    assert len({json.dumps([dict(m) for m in query.messages]) for query in queries}) == 5
    assert not any("a reply of the model" in query.full_text for query in queries)
    if kind == "few-shot":
        assert [message["role"] for message in queries[3].messages] == ["user", "assistant", "user"]
        assert queries[3].text == "What is 3 + 3?"


@pytest.mark.parametrize("format", ["inspect_ai", "embedllm", "routerarena"])
def test_one_id_for_two_questions_is_refused_in_one_file_too(tmp_path: Path, format: str):
    log = inspected()
    log["samples"][1] |= {"input": "Another question?", "messages": []}
    path = tmp_path / {"embedllm": "x.csv"}.get(format, "x.json")
    predictions = [prediction(0, "small"), prediction(0, "large", prompt="Another question?")]
    text = {
        "inspect_ai": json.dumps(log),
        "embedllm": "prompt_id,model_id,label,prompt\n7,0,1,Why?\n7,1,0,How?\n",
        "routerarena": json.dumps(predictions),
    }[format]
    path.write_text(text)
    with pytest.raises(BadTable, match="other prompts under the same id"):
        run(format, path, "--out", tmp_path / "o.parquet")


def bench(path: Path, rows: list[tuple]) -> Path:
    """A RouterBench CSV of `(sample, prompts, small's score, large's score)`."""
    head = "sample_id,prompt,eval_name,small,large,small|total_cost,large|total_cost\n"
    lines = [
        f'{id},"{prompts}",quiz,{a},{b},{n},{n}\n' for n, (id, prompts, a, b) in enumerate(rows)
    ]
    path.write_text(head + "".join(lines))
    return path


def test_routerbench_rows_of_one_sample_lose_no_score(tmp_path: Path):
    path = bench(
        tmp_path / "quiz.csv",
        [
            ("q1", "['Why?', 'Why?']", 1.0, ""),
            ("q1", "['Why?']", "", 0.5),  # completes the row before
            ("q2", "['How?']", 1.0, ""),
            ("q2", "['How is it?']", "", 1.0),  # another text: nobody has answered both
            ("q3", "['Who?']", 1.0, 0.0),
            ("q3", "['Who?']", 0.0, ""),  # another score of the same model
        ],
    )
    run("routerbench", path, "--out", tmp_path / "o.parquet")
    frame = pl.read_parquet(tmp_path / "o.parquet")
    assert frame.select("id", "score::small", "score::large", "cost::large").rows() == [
        ("q1", 1.0, 0.5, 1.0),
        ("q2", 1.0, None, 2.0),
        ("q2#2", None, 1.0, 3.0),
        ("q3", 1.0, 0.0, 4.0),
        ("q3#2", 0.0, None, 5.0),
    ]
    assert len(set(outcomes.read(tmp_path / "o.parquet").groups)) == 3


@pytest.mark.parametrize("value", [1.0000001, -1e-17, 1 + 1e-6])
def test_rounded_scores_are_clipped_and_the_file_is_named(tmp_path: Path, value: float):
    rows = [routed(i, m, performance=value) for i in range(2) for m in ("small", "large")]
    path, out = lines(tmp_path / "data.jsonl", rows), tmp_path / "o.parquet"
    with pytest.warns(DataWarning, match=r"data.jsonl': 4 cells of score::small, score::large are"):
        run("llmrouter", path, "--out", out)
    assert set(pl.read_parquet(out)["score::small"]) == {float(value > 0.5)}


def test_lm_eval_takes_a_metric_that_holds_on_all_rows(tmp_path: Path):
    row = {"doc_id": 0, "filtered_resps": ["x"], "bits": 0.5, "f1": 1.0000001, "em": None}
    row["metrics"] = ["bits", "em", "f1"]
    path = lines(tmp_path / "m" / "samples_t.jsonl", [row, row | {"doc_id": 1, "bits": 7.5}])
    assert formats.find("lm_eval")(path)["score::m"].to_list() == [1.0000001] * 2
