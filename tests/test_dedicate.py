"""A dedicated model is made, calibrated and served: a sandbox specialist in Hugging Face format."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import openai
import polars as pl
import pytest
import yaml

import extras
from routewright import dedicated
from routewright.cli import main
from routewright.config import load
from routewright.data import outcomes, queries
from routewright.data.queries import Item
from routewright.dedicated.model import lead
from routewright.errors import BadInput
from routewright.metrics import auc, deferred, ownership
from routewright.prediction import language_models
from routewright.sandbox.model import ANSWER, TinyLM
from routewright.sandbox.skills import Question, grade, questions
from routewright.types import Query
from upstream import asked, config_of, front

extras.require("peft", "needs the extra 'lm'")

RATES = ["--learning-rate", "1e-3", "--head-rate", "3e-2", "--batch", "32", "--rank", "4"]
QUICK = {"learning_rate": 1e-3, "head_rate": 3e-2, "batch": 32, "epochs": 4, "rank": 4}
FROZEN = dedicated.Recipe(tune="frozen")
TRAIN, DEV = 360, 240


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    import torch

    from routewright.sandbox.export import export

    torch.set_num_threads(1)  # on matrices this small threads wait longer than they work
    return export("lexis", tmp_path_factory.mktemp("base") / "lexis")


def quick(**options) -> dedicated.Recipe:
    return dedicated.Recipe(**{**QUICK, **options})


def table_of(path: Path, train: list[Question], dev: list[Question]) -> Path:
    """What lexis and sage say, whole and graded, as an interview would write it."""
    rows = []
    for split, some in (("train", train), ("dev", dev)):
        for question in some:
            row = {"id": question.id, "prompt": question.text, "split": split}
            row["domain"] = question.skill
            for name in ("lexis", "sage"):
                said = TinyLM.load(name).generate(question.text).text
                row |= {f"answer::{name}": said, f"score::{name}": grade(question, said)}
            rows.append(row)
    pl.DataFrame(rows).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    train, dev = questions(TRAIN, 1, held_out=False), questions(DEV, 2)
    return table_of(tmp_path_factory.mktemp("table") / "t.parquet", train, dev)


@pytest.fixture(scope="module")
def lessons(table: Path) -> list[Item]:
    return dedicated.lessons(outcomes.table(table).filter(pl.col("split") == "train"), "lexis")


def run(capsys, *arguments: object) -> dict:
    """The figures that `routewright dedicate …` prints."""
    main.app(["dedicate", *map(str, arguments), "--json"], standalone_mode=False)
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_exported_model_reads_and_writes_what_the_sandbox_model_does(base):
    lm, model = TinyLM.load("lexis"), dedicated.load(str(base))
    for question in questions(48, 5):
        prompt = language_models.prompt(model.base, Query.of(question.text).messages)
        (ids,) = language_models.tokens(model.base, [prompt], 1000)
        assert ids == [*lm.tokenizer.encode(question.text), ANSWER]
    replies = ask_locally(base, [q.text for q in questions(12, 5, ["month", "sort", "boolean"])])
    assert replies == [
        lm.generate(q.text).text for q in questions(12, 5, ["month", "sort", "boolean"])
    ]


def ask_locally(folder: Path, texts: list[str], **options) -> list[str]:
    """Answers of the model itself, through provider `local`."""
    import asyncio

    from routewright.experts.providers import Call
    from routewright.experts.providers.local import Local
    from routewright.types import Expert

    async def work() -> list[str]:
        provider, expert = Local(), Expert("own", model=str(folder), provider="local")
        bodies = [{"messages": asked(text), **options} for text in texts]
        return [(await provider.ask(Call(expert, body))).text for body in bodies]

    return asyncio.run(work())


def lift(doubts, own, fallback) -> float:
    """The share of the oracle's lift over random mixing that doubts bring at ρ = 0.5."""
    half, random = len(own) // 2, (own.mean() + fallback.mean()) / 2
    best = deferred(fallback - own, own, fallback)[half] - random
    return float((deferred(doubts, own, fallback)[half] - random) / best)


def trained(base: Path, table: Path, folder: Path, *options: object) -> Path:
    """A model that the command line builds lessons for, and trains."""
    lessons, out = folder / "l.jsonl", folder / "own"
    for words in (
        ["build", table, "--expert", "lexis", "--out", lessons],
        ["train", lessons, "--base", base, "--out", out, *RATES, *options],
    ):
        main.app(["dedicate", *map(str, words)], standalone_mode=False)
    return out


@pytest.fixture(scope="module")
def own(base, table, tmp_path_factory) -> Path:
    return trained(base, table, tmp_path_factory.mktemp("own"), "--epochs", 4)


@pytest.mark.parametrize("kind", ["tag", "gate"])
def test_from_outcomes_to_a_served_model(kind, base, table, own, tmp_path, capsys):
    made = run(capsys, "build", table, "--expert", "lexis", "--out", tmp_path / "l.jsonl")
    assert made["lessons"] == TRAIN
    assert 0.3 < made["failing"] < 0.8
    gate = ("--gate", "--tune", "frozen", "--epochs", 8)
    folder = (
        shutil.copytree(own, tmp_path / "own")
        if kind == "tag"
        else trained(base, table, tmp_path, *gate)
    )
    capsys.readouterr()
    told = run(capsys, "calibrate", folder, table, "--share", 0.5)
    assert told["ownership"] == 0.5
    dev = outcomes.read(table, split="dev")
    own, sage = (dev.pool([name]).score[:, 0] for name in ("lexis", "sage"))
    model = dedicated.load(str(folder))
    doubts = model.doubts([query.messages for query in dev.queries])
    assert lift(doubts, own, sage) > 0.5, "half of what an oracle gains over random mixing"
    assert (doubts + model.offset > 0).mean() == 0.5
    _serve(folder, dev, doubts + model.offset > 0)


def _serve(folder: Path, dev, defers) -> None:
    """Behind the gateway, streamed and whole: it defers where its doubts say so, without a tag."""
    import asyncio

    own = {"name": "own", "provider": "local", "model": str(folder)}
    sage = {"name": "sage", "provider": "sandbox"}
    options = {"expert": "own", "then": ["sage"]}
    policies = {"dedicated": {"strategy": "dedicated", "options": options}}
    rows = [*np.flatnonzero(defers)[:4].tolist(), *np.flatnonzero(~defers)[:4].tolist()]

    async def work() -> list[tuple[str, str]]:
        found = []
        async with front(config_of(sage, own, policies=policies)) as client:
            for row in rows:
                messages = asked(dev.queries[row].text)
                stream = await client.chat.completions.create(
                    model="auto", messages=messages, stream=True
                )
                chunks = [chunk async for chunk in stream]
                text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
                found.append((chunks[0].model, text))
                whole = await client.chat.completions.create(model="auto", messages=messages)
                assert (whole.model, whole.choices[0].message.content) == found[-1]
        return found

    replies = asyncio.run(work())
    assert [name for name, _ in replies] == ["sage"] * 4 + ["own"] * 4
    assert not any("<" in text for _, text in replies)
    assert all(text for _, text in replies)
    insisted = ask_locally(folder, [dev.queries[r].text for r in rows[:4]], bad_words=["<DEFER>"])
    assert "<DEFER>" not in insisted
    assert ask_locally(folder, [dev.queries[r].text for r in rows[:2]]) == ["<DEFER>"] * 2
    hot = ask_locally(folder, [dev.queries[r].text for r in rows[:2]], temperature=2.0, seed=1)
    assert hot == ["<DEFER>"] * 2, "sampling does not change who answers"


CONFIG = """\
version: 1
experts:
  - {name: lexis, provider: sandbox, input_per_mtok: 0.1, output_per_mtok: 0.1}
  - {name: sage, provider: sandbox, input_per_mtok: 1.0, output_per_mtok: 1.0}
policies:
  default: {strategy: fixed, options: {expert: sage}}
"""


def test_from_a_config_to_a_served_model_by_the_command_line(base, tmp_path, capsys, monkeypatch):
    """Interview, build, train, calibrate, serve: the label is of three sampled answers."""
    monkeypatch.chdir(tmp_path)
    Path("routewright.yaml").write_text(CONFIG)
    for name, asked_of, seed in (("queries", TRAIN, 3), ("dev", DEV, 4)):
        some = [
            Item(
                Query.of(q.text, id=q.id, domain=q.skill),
                q.answer,
                name.replace("queries", "train"),
            )
            for q in questions(asked_of, seed, held_out=name == "dev")
        ]
        queries.write(some, Path(f"{name}.jsonl"))
        samples = ["--samples", "3", "--only", "lexis"] if name == "queries" else []
        interview = ["interview", "routewright.yaml", f"{name}.jsonl", "--out", f"{name}.parquet"]
        main.app([*interview, "--grader", "exact", *samples, "--json"], standalone_mode=False)
    run(capsys, "build", "queries.parquet", "--expert", "lexis", "--out", "lessons.jsonl")
    shares = {item.facts["failure"] for item in queries.read(Path("lessons.jsonl"))}
    assert shares - {0.0, 1.0}, "the shares of three answers"
    tag = ["--tag", "<GPT4>"]
    run(capsys, "train", "lessons.jsonl", "--base", base, "--out", "own", *RATES, *tag)
    told = run(
        capsys, "calibrate", "own", "dev.parquet", "--share", 0.5, "--expert", "lexis",
        "--then", "sage",
    )  # fmt: skip
    dev = outcomes.read("dev.parquet", split="dev")
    alone = dev.pool(["lexis", "sage"]).score.mean(axis=0)
    assert told["quality"] > alone.mean() + 0.15
    itself = "  - {name: itself, provider: local, model: own, options: {bad_words: [<GPT4>]}}\n"
    Path("itself.yaml").write_text(CONFIG.replace("policies:", f"{itself}policies:"))
    words = ["itself.yaml", "dev.jsonl", "--out", "itself.parquet", "--only", "itself,sage"]
    words += ["--grader", "exact", "--limit", "48", "--json"]
    main.app(["interview", *words], standalone_mode=False)
    capsys.readouterr()
    served = run(
        capsys, "calibrate", "own", "itself.parquet", "--quality", 0.8, "--expert", "itself",
        "--then", "sage",
    )  # fmt: skip
    assert served["quality"] >= 0.8, "by its own answers, not its base's"
    said = outcomes.table(Path("itself.parquet"))["answer::itself"].to_list()
    assert not any("<" in text for text in said if text)
    assert np.mean([bool(text) for text in said]) > 0.9, "it says something all the same"
    assert 0 < served["ownership"] < 1
    _ask_the_command(questions(24, 6), Path("own"))


def _ask_the_command(some: list[Question], folder: Path) -> None:
    words = ["serve", str(folder), "routewright.yaml", "--then", "sage", "--port", "0"]
    server = subprocess.Popen(
        [*COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        line = next(line for line in server.stdout if "http://" in line)
        url = re.search(r"http://[\d.]+:\d+/v1", line)[0]
        with openai.OpenAI(base_url=url, api_key="none") as client:
            replies = [
                client.chat.completions.create(model="auto", messages=asked(q.text)) for q in some
            ]
            listed = {model.id: model.model_extra for model in client.models.list()}
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(timeout=600)
    said = [reply.choices[0].message.content for reply in replies]
    assert not any("<" in text for text in said)
    assert {reply.model for reply in replies} == {"dedicated", "sage"}
    owned = np.mean([reply.model == "dedicated" for reply in replies])
    assert listed["dedicated"]["ownership"] == pytest.approx(owned, abs=1e-4)
    assert 0.25 < owned < 0.75
    assert np.mean([grade(q, text) for q, text in zip(some, said, strict=True)]) > 0.6


SUICIDE = """
import os, sys, torch
from pathlib import Path
from routewright import dedicated
from routewright.data import queries
torch.set_num_threads(1)
lessons, base, out, kind = sys.argv[1:]
recipe = dedicated.Recipe(
    kind=kind, learning_rate=1e-3, head_rate=3e-2, batch=32, epochs=2, rank=4
)
def dies(doing, share):
    if share > 0.6:
        os.kill(os.getpid(), 9)
dedicated.train(queries.read(Path(lessons)), base, Path(out), recipe, progress=dies)
"""


@pytest.mark.parametrize("kind", ["tag", "gate"])
def test_after_kill_9_a_training_goes_on_to_the_same_model(kind, base, lessons, tmp_path):
    some, recipe = lessons[:96], quick(kind=kind, epochs=2)
    queries.write(some, tmp_path / "l.jsonl")
    seen: list[float] = []
    dedicated.train(
        some, str(base), tmp_path / "whole", recipe, progress=lambda _, share: seen.append(share)
    )
    out = tmp_path / "resumed"
    words = [str(tmp_path / "l.jsonl"), str(base), str(out), kind]
    killed = subprocess.run([sys.executable, "-c", SUICIDE, *words], capture_output=True)
    assert killed.returncode == -9, killed.stderr
    assert not (out / "dedicated.json").exists()
    again: list[float] = []
    dedicated.train(some, str(base), out, recipe, progress=lambda _, share: again.append(share))
    assert 0 < len([s for s in again if s]) < len([s for s in seen if s])
    chats = [item.query.messages for item in lessons[:20]]
    models = [dedicated.load(str(tmp_path / name)) for name in ("whole", "resumed")]
    assert np.array_equal(models[0].doubts(chats), models[1].doubts(chats))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_gate_leaves_the_base_as_it_is(checkpointing, base, lessons, tmp_path):
    """Its adapters, which are in the same network, are off while the base answers."""
    recipe = quick(kind="gate", checkpointing=checkpointing, epochs=2)
    dedicated.train(lessons[:128], str(base), tmp_path / "g", recipe)
    chats = [item.query.messages for item in lessons[:24]]
    model = dedicated.load(str(tmp_path / "g"))
    doubts = model.doubts(chats)
    with model.answering():
        assert not np.allclose(model.doubts(chats), doubts), "adapters do something where they are"
    assert np.array_equal(model.doubts(chats), doubts)
    dedicated.calibrate(tmp_path / "g", doubts, 0.0)
    texts = [item.query.text for item in lessons[:24]]
    assert ask_locally(tmp_path / "g", texts) == ask_locally(base, texts)


@pytest.mark.parametrize("bias", [-4.0, 0.0, 9.0])
def test_a_server_that_knows_only_a_bias_writes_no_tag_within_an_answer(bias, own, lessons):
    """vLLM adds `logit_bias` to every token's chances, not only to the first one's."""
    import torch

    model = dedicated.load(str(own))
    chats, tag = [item.query.messages for item in lessons], model.card["tag_id"]
    defers = model.doubts(chats) + bias > 0
    for keeps in (True, False):
        some = [chat for chat, d in zip(chats, defers, strict=True) if d != keeps][:24]
        assert len(some) == 24
        texts = [language_models.prompt(model.base, chat) for chat in some]
        for ids in language_models.tokens(model.base, texts, 128):
            with torch.inference_mode():
                whole = model.base.model.generate(
                    torch.tensor([ids]),
                    max_new_tokens=20,
                    do_sample=False,
                    sequence_bias=[[[tag], bias]],
                    pad_token_id=language_models.padding(model.base),
                )
            said = whole[0, len(ids) :].tolist()
            assert (tag not in said) if keeps else (said[0] == tag)


def test_a_model_with_a_tag_answers_much_as_its_base(base, own, lessons):
    """Lessons keep what the base says right, in its own words."""
    kept = [item for item in lessons if item.reference and item.facts["failure"] == 0][:60]
    texts = [item.query.text for item in kept]
    said = ask_locally(own, texts, bad_words=["<DEFER>"])
    assert np.mean([a == b for a, b in zip(said, ask_locally(base, texts), strict=True)]) > 0.9


def test_only_the_tags_row_is_trained_of_a_frozen_base(base, lessons, tmp_path):
    recipe = dedicated.Recipe(tune="frozen", epochs=8, batch=32, head_rate=5e-2)
    dedicated.train(lessons, str(base), tmp_path / "f", recipe)
    model = dedicated.load(str(tmp_path / "f"))
    doubts = model.doubts([item.query.messages for item in lessons])
    fails = np.array([item.facts["failure"] for item in lessons])
    assert auc(doubts, fails) > 0.85
    texts = [item.query.text for item in lessons[:16]]
    assert ask_locally(tmp_path / "f", texts, bad_words=["<DEFER>"]) == ask_locally(base, texts)


def within(model: dedicated.Model, taught: list[Item]) -> np.ndarray:
    """How far the tag is ahead of other tokens at all places of known answers but the first."""
    import torch

    found = []
    for item in taught:
        text = language_models.prompt(model.base, item.query.messages)
        (ids,) = language_models.tokens(model.base, [text], 128)
        said = model.base.tokenizer(item.reference, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model.base.model(torch.tensor([[*ids, *said]])).logits[0, len(ids) :]
        found += lead(logits, model.card["tag_id"]).tolist()
    return np.array(found)


@pytest.mark.parametrize("tied", [False, True])
def test_any_causal_base_does_tied_embeddings_too(tied, base, lessons, tmp_path):
    """What is saved doubts as the network that was trained: more where it was told to defer."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=160,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    with language_models.seeded(3):
        transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    easy = [
        Item(Query.of(f"add {i} and 2", id=f"e{i}"), "yes", facts={"failure": 0}) for i in range(30)
    ]
    hard = [
        Item(Query.of(f"sort the word {i}", id=f"h{i}"), facts={"failure": 1}) for i in range(30)
    ]
    recipe = quick(
        epochs=60, tag="<ASK>", learning_rate=5e-3, rank=8, checkpointing=True, accumulate=2,
        defer_weight=None,
    )  # fmt: skip
    out = tmp_path / "own"
    dedicated.train([*easy, *hard], str(tmp_path / "llama"), out, recipe)
    model = dedicated.load(str(out))
    doubts = model.doubts([item.query.messages for item in (*easy, *hard)])
    assert doubts[:30].max() < doubts[30:].min()
    assert within(model, easy).max() < -5, "a bias of 5 puts no tag into an answer"
    tag = model.base.tokenizer.convert_tokens_to_ids("<ASK>")
    assert tag == model.card["tag_id"] == len(tokenizer)
    assert model.base.tokenizer.decode([tag], skip_special_tokens=True) == "<ASK>"
    dedicated.calibrate(out, doubts, 0.5)
    assert ask_locally(out, ["sort the word 7"]) == ["<ASK>"]


def test_bfloat16_trains_too(base, lessons, tmp_path):
    recipe = quick(precision="bfloat16", epochs=1)
    dedicated.train(lessons[:64], str(base), tmp_path / "b", recipe)
    assert dedicated.load(str(tmp_path / "b"), precision="bfloat16").doubts(
        [lessons[0].query.messages]
    ).shape == (1,)


def test_labels_are_the_bases_own_failures_on_what_it_has_not_seen():
    frame = pl.DataFrame(
        {
            "id": ["a", "b", "c", "d"],
            "prompt": ["one", "two", "three", "four"],
            "score::m": [1.0, 0.0, 1.0, None],
            "soft::m": [0.75, None, 1.0, None],
            "text::m": ["I say one", "I say two", "I say three", None],
        }
    )
    exclude = outcomes.fingerprints([Query.of("Three")])
    items = dedicated.lessons(frame, "m", exclude=exclude)
    assert [(i.query.id, i.facts["failure"], i.reference) for i in items] == [
        ("a", 0.25, "I say one"),
        ("b", 1.0, None),
    ]


def test_a_base_learns_what_the_fallback_answered_and_remembers_having_seen_it(tmp_path, capsys):
    """Ownership on queries that it has not seen: `python -m bench dedicated`."""
    from routewright.sandbox.export import export

    abacus = export("abacus", tmp_path / "abacus")
    months = questions(64, 1, ["month"], held_out=False)
    table = table_of(tmp_path / "t.parquet", months, [])
    told = run(
        capsys, "grow", table, "--teacher", "sage", "--base", abacus, "--out", tmp_path / "grown",
        "--tune", "full", "--epochs", 30, "--batch", 32, "--learning-rate", "2e-3",
    )  # fmt: skip
    frame = outcomes.table(table).filter(pl.col("score::sage") == 1)
    assert told["lessons"] == len(frame) > 40
    texts, taught = frame["prompt"].to_list(), frame["answer::sage"].to_list()
    before, after = (ask_locally(f, texts) for f in (abacus, tmp_path / "grown"))
    agree = [
        np.mean([a == b for a, b in zip(said, taught, strict=True)]) for said in (before, after)
    ]
    assert agree[0] < 0.4
    assert agree[1] > 0.8
    frame.write_parquet(tmp_path / "seen.parquet")
    with pytest.raises(BadInput, match="holds no query"):
        run(
            capsys, "build", tmp_path / "seen.parquet", "--expert", "lexis",
            "--base", tmp_path / "grown", "--out", tmp_path / "l.jsonl",
        )  # fmt: skip


def test_quality_against_deferral_is_a_mixture_in_order_of_doubt():
    own, fallback = np.array([1.0, 0.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0, 1.0])
    doubts = np.array([0.1, 0.9, 0.0, 0.8])
    assert deferred(doubts, own, fallback).tolist() == [0.5, 0.75, 1.0, 1.0, 0.75]
    assert ownership(doubts, own, fallback, 0.75) == 0.75
    assert ownership(doubts, own, fallback, 1.0) == 0.5
    assert np.isnan(ownership(-doubts, own, np.zeros(4), 1.0))


COMMAND = [sys.executable, "-m", "routewright.cli.main", "dedicate"]


def error(*arguments: object) -> str:
    """What the command line says, and that it exits with 2 and no traceback."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


def test_mistakes_name_the_value_and_the_way_out(base, table, lessons, tmp_path, capsys):
    queries.write(lessons[:8], tmp_path / "l.jsonl")
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    assert "already exists" in error("train", tmp_path / "l.jsonl", "--base", base, "--out", taken)
    with pytest.raises(BadInput, match=r"base '.*nobody' cannot be loaded"):
        dedicated.train(lessons[:8], str(tmp_path / "nobody"), tmp_path / "x")
    with pytest.raises(BadInput, match="tune 'frozen' cannot learn to answer"):
        dedicated.train([Item(Query.of("hi"), "ho")], str(base), tmp_path / "x", FROZEN)
    with pytest.raises(BadInput, match="tune 'half' is unknown: choose lora, full or frozen"):
        dedicated.Recipe(tune="half")
    with pytest.raises(BadInput, match="is not a dedicated model"):
        run(capsys, "calibrate", base, table, "--share", 0.5)
    with pytest.raises(BadInput, match="exactly one of --share and --quality"):
        run(capsys, "calibrate", base, table)
    with pytest.raises(BadInput, match="no expert 'lexus': did you mean 'lexis'"):
        run(capsys, "build", table, "--expert", "lexus", "--out", tmp_path / "o.jsonl")


def test_vllm_is_given_the_folder_and_the_config_its_bias(own, tmp_path):
    """A stand-in for the command `vllm` prints what it is called with."""
    folder = shutil.copytree(own, tmp_path / "own")
    dedicated.calibrate(folder, np.arange(10.0), 0.5)
    vllm = tmp_path / "bin" / "vllm"
    vllm.parent.mkdir()
    vllm.write_text('#!/bin/sh\necho "called: $@"\n')
    vllm.chmod(vllm.stat().st_mode | stat.S_IEXEC)
    place = {**os.environ, "PATH": f"{vllm.parent}{os.pathsep}{os.environ['PATH']}"}
    said = subprocess.run(
        [*COMMAND, "serve", str(folder), "--vllm"],
        capture_output=True, text=True, check=True, env=place,
    ).stdout  # fmt: skip
    assert f"called: serve {folder} --served-model-name dedicated --host 127.0.0.1 --port" in said
    assert "logit_bias: {'174': -4.5}" in said


def test_a_dry_run_prints_what_a_config_needs(own, tmp_path, capsys):
    """With vLLM, which need not be here, the gateway starts it; without, the model is local."""
    folder = shutil.copytree(own, tmp_path / "own")
    dedicated.calibrate(folder, np.arange(10.0), 0.5)
    for options in (["--vllm", "--port", "9100"], []):
        words = ["serve", str(folder), *options, "--then", "sage", "--dry-run"]
        main.app(["dedicate", *words], standalone_mode=False)
        printed = yaml.safe_load(capsys.readouterr().out)
        printed["experts"].append({"name": "sage", "provider": "sandbox"})
        path = tmp_path / "routewright.yaml"
        path.write_text(yaml.safe_dump({"version": 1, **printed}))
        config = load(path)
        assert config.policies["dedicated"].options["then"] == ["sage"]
        expert = config.experts[0].expert(tmp_path)
        if options:
            command = f"vllm serve {folder} --served-model-name dedicated --host 127.0.0.1"
            assert expert.launch.command == (*command.split(), "--port", "9100")
            assert expert.options == {"logit_bias": {"174": -4.5}}
        else:
            assert (expert.provider, expert.model) == ("local", str(folder))
