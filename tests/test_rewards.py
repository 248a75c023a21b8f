"""Reward models, `routewright reward`, and ranking by rewards: what is said, paid and counted."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from routewright.cli.main import app
from routewright.data import outcomes
from routewright.data.journal import Journal
from routewright.drive import decide, replay
from routewright.errors import BadInput, BadTable
from routewright.experts.client import Client
from routewright.grading import rewards
from routewright.interview import rewarding
from routewright.strategies import build
from routewright.types import Answer, Expert, Query
from upstream import Upstream, expert, running, status


def answered(n: int = 6) -> pl.DataFrame:
    """Queries with two whole answers each; `long` writes more, and once nothing at all."""
    return pl.DataFrame(
        {
            "id": [f"q{i}" for i in range(n)],
            "prompt": [f"Say {i} words." for i in range(n)],
            "score::short": [0.0] * n,
            "score::long": [1.0] * n,
            "answer::short": [f"word {i}" for i in range(n)],
            "answer::long": [*(" ".join(["word"] * (i + 2)) for i in range(n - 1)), None],
        }
    )


def said_in(body, mark: str) -> str:
    """What stands between a mark and its end in the judge's prompt."""
    text = body["messages"][0]["content"]
    return text.split(f"<{mark}>\n", 1)[1].split(f"\n</{mark}>", 1)[0]


def by_length(body) -> str:
    """A judge that likes long answers: rates them, or picks the longer."""
    if "<answer-1>" in body["messages"][0]["content"]:
        a, b = (len(said_in(body, f"answer-{n}")) for n in (1, 2))
        return f"Length decides.\nBetter: {'neither' if a == b else 1 if a > b else 2}"
    return f"Length decides.\nRating: {min(10, len(said_in(body, 'answer').split()))}"


def rate(upstream, path, spec, frame=None, **settings):
    """The rated table and the tally, with the upstream as the only expert, `critic`."""
    found = {}

    @asynccontextmanager
    async def up():
        async with running(upstream):
            yield expert(upstream.expert("critic"))

    def in_thread(who):
        with Journal(path) as journal:
            found["it"] = rewarding.rate(
                answered() if frame is None else frame, spec, journal, experts=[who], **settings
            )

    async def run():
        async with up() as who:
            await asyncio.to_thread(in_thread, who)

    asyncio.run(run())
    return found["it"]


# --- judges --------------------------------------------------------------------------------


def test_a_judge_grades_every_answer_once_and_its_cost_is_written_down(tmp_path):
    upstream = Upstream(says=by_length)
    frame, tally = rate(upstream, tmp_path / "j.jsonl", "judge=critic")
    assert frame["reward::long"].to_list()[:5] == pytest.approx([n / 9 for n in (1, 2, 3, 4, 5)])
    assert frame["reward::short"].to_list() == [1 / 9] * 6
    assert frame["reward_cost::long"][5] is None
    assert (tally.answers, tally.rated, tally.unread, upstream.requests) == (11, 11, 0, 11)
    paid = frame["reward_cost::long"].sum() + frame["reward_cost::short"].sum()
    assert tally.cost == pytest.approx(paid)
    assert paid > 0
    again, second = rate(upstream, tmp_path / "j.jsonl", "judge=critic")
    assert (upstream.requests, second.recalled) == (11, 11)
    assert again.equals(frame)


def test_verdicts_that_cannot_be_read_are_counted_and_not_guessed(tmp_path):
    upstream = Upstream(says=lambda body: "It is a solid 8, I would say.")
    frame, tally = rate(upstream, tmp_path / "j.jsonl", "judge=critic")
    assert (tally.rated, tally.unread) == (0, 11)
    assert frame["reward::long"].null_count() == 6
    assert tally.cost > 0


def test_a_judge_that_is_down_leaves_rewards_unknown_and_says_why(tmp_path):
    upstream = Upstream(says=by_length, faults=[status(400, "no such model")] * 3)
    _, tally = rate(upstream, tmp_path / "j.jsonl", "judge=critic")
    assert (tally.failed, tally.rated) == (3, 8)
    assert "no such model" in tally.trouble
    _, second = rate(upstream, tmp_path / "j.jsonl", "judge=critic")
    assert (second.failed, second.rated, second.recalled) == (0, 11, 8)


def test_a_budget_stops_the_judge_and_a_larger_one_goes_on(tmp_path):
    upstream = Upstream(says=by_length)
    _, tally = rate(upstream, tmp_path / "j.jsonl", "judge=critic", budget=0.002)
    assert "budget" in tally.stopped
    assert 0 < tally.rated < 11
    assert tally.cost <= 0.002
    _, whole = rate(upstream, tmp_path / "j.jsonl", "judge=critic", budget=1.0)
    assert (whole.stopped, whole.rated) == ("", 11)


def test_pairwise_rewards_are_shares_of_comparisons_won_in_both_orders(tmp_path):
    frame, tally = rate(Upstream(says=by_length), tmp_path / "j.jsonl", "pairwise=critic")
    long, short = frame["reward::long"].to_list(), frame["reward::short"].to_list()
    lengths = [
        (len(a or ""), len(b)) for a, b in frame["answer::long", "answer::short"].iter_rows()
    ]
    for (a, b), mine, theirs in list(zip(lengths, long, short, strict=True))[:5]:
        assert mine == (0.5 if a == b else float(a > b))
        assert mine + theirs == 1
    assert long[5] is None
    assert short[5] is None, "alone, it was compared with nothing"
    assert tally.unread == 0


def test_a_judge_that_always_prefers_the_first_answer_makes_ties(tmp_path):
    frame, _ = rate(Upstream(says="Better: 1"), tmp_path / "j.jsonl", "pairwise=critic")
    assert frame["reward::long"].to_list()[:5] == [0.5] * 5


def test_a_pair_counts_only_if_both_verdicts_can_be_read(tmp_path):
    def half(body):
        return "Better: 1" if said_in(body, "answer-1").startswith("word 0") else "no idea"

    frame, tally = rate(Upstream(says=half), tmp_path / "j.jsonl", "pairwise=critic")
    assert frame["reward::short"].null_count() == 6
    assert tally.unread == 9


def test_the_judge_must_be_in_the_config(tmp_path):
    with Journal(tmp_path / "j.jsonl") as journal:
        with pytest.raises(BadInput, match="no expert 'critic' in the config"):
            rewarding.rate(answered(), "judge=critic", journal, experts=[Expert("other")])
        with pytest.raises(BadTable, match="no text::EXPERT to rate"):
            rewarding.rate(answered(), "function=math:hypot", journal, answers="text")


# --- functions, and being killed -----------------------------------------------------------

GRADER = """
import os

def reward(prompt, answer):
    with open({log!r}, "a") as log:
        log.write(answer + "\\n")
    if os.path.exists({fuse!r}) and len(open({log!r}).readlines()) == 150:
        os.kill(os.getpid(), 9)
    return None if "7" in answer else len(answer)
"""


def test_a_run_that_is_killed_goes_on_where_it_stopped(tmp_path: Path):
    n = 200
    frame = pl.DataFrame({"id": [f"q{i}" for i in range(n)], "prompt": ["Say it."] * n})
    frame = frame.with_columns(
        pl.Series("score::a", [1.0] * n), pl.Series("answer::a", [f"answer {i}" for i in range(n)])
    )
    frame.write_parquet(tmp_path / "t.parquet")
    log, fuse = tmp_path / "log", tmp_path / "fuse"
    fuse.touch()
    grader = tmp_path / "grader.py"
    grader.write_text(GRADER.format(log=str(log), fuse=str(fuse)))
    args = [sys.executable, "-m", "routewright.cli.main", "reward", str(tmp_path / "t.parquet")]
    args += ["--model", f"function={grader}:reward", "--out", str(tmp_path / "o.parquet")]
    assert subprocess.run(args, capture_output=True).returncode == -9
    assert not (tmp_path / "o.parquet").exists()
    fuse.unlink()
    done = subprocess.run([*args, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tally = json.loads(done.stdout)
    assert tally["recalled"] == 128, "two batches of 64 were whole"
    assert len(log.read_text().splitlines()) == 150 + n - 128
    rated = outcomes.read(tmp_path / "o.parquet").measures["reward"][:, 0]
    assert np.isnan(rated[7])
    assert rated[12] == len("answer 12")


def test_a_function_that_gives_no_number_is_named(tmp_path):
    (tmp_path / "odd.py").write_text("def grade(prompt, answer):\n    return 'good'\n")
    model = rewards.build(f"function={tmp_path / 'odd.py'}:grade")
    with pytest.raises(BadInput, match="gave 'good'"):
        model.rate([(Query.of("q"), "a")])
    for wrong, named in (
        (f"function={tmp_path / 'odd.py'}:nothing", "no function 'nothing'"),
        (f"function={tmp_path / 'gone.py'}:grade", "no file"),
        ("function=no_such_module:f", "no module"),
    ):
        with pytest.raises(BadInput, match=named):
            rewards.build(wrong).rate([(Query.of("q"), "a")])


@pytest.mark.parametrize(
    ("spec", "named"),
    [("armo", "classifier"), ("judge", "judge=EXPERT"), ("recorded=x", "takes nothing")],
)
def test_reward_models_that_do_not_exist_are_named(spec, named):
    with pytest.raises(BadInput, match=named):
        rewards.build(spec)


# --- sequence classifiers ------------------------------------------------------------------


def tiny_classifier(folder: Path, *, chat: bool, labels: int = 1) -> Path:
    """A reward model with random weights, built from a config: BERT, or Llama with a template."""
    torch = pytest.importorskip("torch", reason="needs the extra lm")
    transformers = pytest.importorskip("transformers", reason="needs the extra lm")
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    words = "[PAD] [UNK] [CLS] [SEP] user assistant say word words hello there . ? 0 1 2 3".split()
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        **({"eos_token": "[SEP]"} if chat else {"pad_token": "[PAD]"}),
    )
    sizes = {"vocab_size": len(words), "hidden_size": 16, "intermediate_size": 32}
    sizes |= {"num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": labels}
    if chat:
        fast.chat_template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
        config = transformers.LlamaConfig(**sizes, num_key_value_heads=2)
        model = transformers.LlamaForSequenceClassification(config)
    else:
        model = transformers.BertForSequenceClassification(transformers.BertConfig(**sizes))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("chat", [False, True], ids=["pair", "chat template"])
def test_a_classifier_rates_alike_whatever_the_batch(tmp_path, chat):
    folder = tiny_classifier(tmp_path / "model", chat=chat)
    pairs = [(Query.of(f"say {i} words ."), "hello there " * (i + 1)) for i in range(7)]
    model = rewards.build(f"classifier={folder}")
    together = model.rate(pairs)
    alone = np.array([model.rate([pair])[0] for pair in pairs])
    assert np.allclose(together, alone, atol=1e-5)
    assert len(set(np.round(together, 6))) > 1, "answers must matter"


def test_a_classifier_reads_the_whole_conversation_and_keeps_the_end_of_long_ones(tmp_path):
    from routewright.grading.rewards.classifier import Classifier

    folder = tiny_classifier(tmp_path / "model", chat=True)
    messages = ({"role": "user", "content": "say 1"}, {"role": "user", "content": "say 2"})
    model = Classifier(str(folder))
    first = model.rate([(Query(messages), "hello")])[0]
    assert first != pytest.approx(model.rate([(Query(messages[1:]), "hello")])[0], abs=1e-7)
    short = Classifier(str(folder), max_tokens=3)
    ends = [(Query.of("say " * n), "hello there ?") for n in (1, 50)]
    a, b = short.rate(ends)
    assert a == pytest.approx(b, abs=1e-6)


def test_classifiers_that_are_no_reward_models_are_refused(tmp_path):
    folder = tiny_classifier(tmp_path / "two", chat=False, labels=2)
    with pytest.raises(BadInput, match="2 outputs"):
        rewards.build(f"classifier={folder}").rate([(Query.of("q"), "a")])
    with pytest.raises(BadInput, match="cannot be loaded"):
        rewards.build(f"classifier={tmp_path / 'nothing'}").rate([(Query.of("q"), "a")])


def test_reward_from_the_command_line_with_a_classifier_then_a_fit(tmp_path):
    folder = tiny_classifier(tmp_path / "model", chat=True)
    answered(30).write_parquet(tmp_path / "t.parquet")
    out = tmp_path / "rated.parquet"
    args = ["reward", str(tmp_path / "t.parquet"), "--model", f"classifier={folder}"]
    done = CliRunner().invoke(app, [*args, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert "59 of 59 answers rated" in done.output
    router = tmp_path / "router"
    args = ["fit", str(out), "--predictor", "zooter", "--out", str(router), "--tags", "none"]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    assert json.loads((router / "router.json").read_text())["predictor"]["options"]["reward"]


# --- ranking -------------------------------------------------------------------------------


def test_replayed_ranking_takes_the_most_rewarded_and_counts_every_scoring():
    query = Query.of("hi")
    record = {}
    for i, name in enumerate(("a", "b", "c")):
        record[name] = Answer(name, name, cost=0.01, score=float(i == 0))
        reward = [1.0, 3.0, None][i]
        record[name, "judge"] = Answer(name, kind="judge", reward=reward, cost=0.001)
    decision = replay(build({"strategy": "ranking", "experts": ["a", "b", "c"]}), query, record)
    assert decision.answer.expert == "b"
    assert decision.cost == pytest.approx(3 * 0.01 + 3 * 0.001)
    assert "3" in decision.because


def test_a_table_with_rewards_is_ranked_by_them_and_one_without_by_scores(tmp_path):
    frame = answered(3).with_columns(
        pl.lit(5.0).alias("reward::short"), pl.lit(1.0).alias("reward::long")
    )
    ranking = build({"strategy": "ranking", "experts": ["short", "long"]})
    for table, best in ((frame, "short"), (answered(3), "long")):
        table.write_parquet(tmp_path / "t.parquet")
        rows = outcomes.read(tmp_path / "t.parquet")
        assert replay(ranking, rows.queries[0], rows.record(0)).answer.expert == best


def live(ranking, query, *upstreams, traits=None):
    async def run():
        async with running(*upstreams):
            who = [
                expert(up.expert(name, **(traits or {}).get(name, {})))
                for name, up in zip(("small", "large", "critic"), upstreams, strict=True)
            ]
            async with Client(who) as client:
                return await decide(ranking, query, who, client)

    return asyncio.run(run())


def test_live_ranking_pays_for_all_generations_and_scorings():
    small, large = Upstream(says="one"), Upstream(says="one two three")
    critic = Upstream(says=by_length)
    spec = {"strategy": "ranking", "experts": ["small", "large"], "reward": "judge=critic"}
    decision = live(build(spec), Query.of("count"), small, large, critic)
    assert decision.answer.text == "one two three"
    assert [u.requests for u in (small, large, critic)] == [1, 1, 2]
    assert len(decision.spent) == 4
    assert decision.cost == pytest.approx(sum(a.cost for a in decision.spent))


def test_a_judge_that_may_not_see_the_query_is_not_asked():
    open_to_all = {"data_classes": ["public", "restricted"]}
    traits = {"small": open_to_all, "large": open_to_all}
    critic = Upstream(says=by_length)
    spec = {"strategy": "ranking", "experts": ["small", "large"], "reward": "judge=critic"}
    query = Query.of("my diagnosis", data_class="restricted")
    decision = live(build(spec), query, Upstream(), Upstream(), critic, traits=traits)
    assert critic.requests == 0
    assert decision.answer.expert == "small"
    assert "critic" in decision.because


def test_recorded_rewards_say_nothing_about_new_answers():
    spec = {"strategy": "ranking", "experts": ["small", "large"]}
    decision = live(build(spec), Query.of("count"), Upstream(), Upstream(), Upstream())
    assert "no reward" in decision.because


def test_a_strategy_runs_no_code():
    with pytest.raises(BadInput, match="no reward function"):
        build({"strategy": "ranking", "experts": ["a"], "reward": "function=os:getcwd"})


def test_the_command_line_reads_the_judge_from_the_config(tmp_path):
    """An address where nobody listens: every ask fails, and the message says so."""
    config = {
        "version": 1,
        "experts": [{"name": "critic", "base_url": "http://127.0.0.1:9/v1", "retries": 0}],
        "policies": {"default": {"strategy": "fixed", "options": {"expert": "critic"}}},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    answered(2).write_parquet(tmp_path / "t.parquet")
    args = ["reward", str(tmp_path / "t.parquet"), "--out", str(tmp_path / "o.parquet")]
    args += ["--model", "judge=critic", "--config", str(tmp_path / "c.yaml")]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    assert "3 asks failed" in done.output
    assert "run this again" in done.output
