"""Reward-guided routing, from the command line to the gateway's decision."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from models import tiny_base
from routewright import checks
from routewright.cli.main import app
from routewright.data import outcomes
from routewright.drive import replay
from routewright.errors import BadInput, BadTable
from routewright.fitting import fit as fitting
from routewright.prediction.predictors import _labels, zooter
from routewright.prediction.predictors.zooter import Zooter
from routewright.router.router import Router
from tables import table, write
from upstream import Upstream, running


def fit(path: Path, **options):
    rows = outcomes.read(path, split="train")
    return fitting.fit(rows, predictor="zooter", options=options)


def with_rewards(frame: pl.DataFrame, of) -> pl.DataFrame:
    """`reward::m` columns: what `of` makes of each expert's scores."""
    names = [c.removeprefix("score::") for c in frame.columns if c.startswith("score::")]
    return frame.with_columns(
        pl.Series(f"reward::{name}", of(name, frame[f"score::{name}"].to_numpy())) for name in names
    )


def test_fit_from_the_command_line_shows_every_option(tmp_path, outcome_table):
    folder = tmp_path / "router"
    args = ["fit", str(outcome_table), "--out", str(folder), "--predictor", "zooter"]
    args += ["--beta", "0.3", "--tags", "domain", "--option", "shrinkage=5", "--json"]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    options = json.loads((folder / "router.json").read_text())["predictor"]["options"]
    assert options["beta"] == 0.3
    assert options["tags"] == "domain"
    assert options["shrinkage"] == 5
    assert options["temperature"] is None
    assert options["chosen"]["temperature"] > 0
    assert {"hard", "direction", "reward", "leave_one_out", "untagged", "penalty"} <= set(options)


def test_the_router_sends_topics_to_their_specialists(outcome_table):
    router = fit(outcome_table, tags="domain")
    rows = outcomes.read(outcome_table, split="dev", experts=["adder", "speller", "sage"])
    quality = router.predict(rows.queries).quality
    wins = quality[:, 0] > quality[:, 1]
    assert wins[np.array(rows.domains) == "sums"].mean() > 0.95
    assert wins[np.array(rows.domains) == "words"].mean() < 0.05
    decision = replay(router.strategy(0.0), rows.queries[0], rows.record(0))
    assert decision.answer.expert in ("adder", "speller", "sage")
    assert any(point.gain > 0 for point in router.frontier), "do no harm lets it learn here"


def test_it_does_no_harm_where_prompts_say_nothing(tmp_path):
    fooled = 0
    for seed in range(4):
        flat = {"adder": 1e-5, "speller": 1e-5, "sage": 1e-4}  # else lengths would tell prices
        costs = [pl.lit(cost).alias(f"cost::{name}") for name, cost in flat.items()]
        path = write(tmp_path, table(seed=seed, signal=0.0).with_columns(costs))
        fooled += any(point.gain != 0 for point in fit(path).frontier)
    assert fooled <= 1, "chance fools an interval of 95 % now and then"


def test_rewards_of_any_scale_are_learnt_from_and_scores_are_predicted(tmp_path):
    def graded(name, score):
        noise = np.random.default_rng(len(name)).normal(0, 8, len(score))
        return 100 * score - 40 + noise

    plain = table()
    path = write(tmp_path, with_rewards(plain, graded))
    rewarded, scored = fit(path), fit(path, reward="score")
    rows = outcomes.read(path, split="dev")
    for router in (rewarded, scored):
        quality = router.predict(rows.queries).quality
        assert np.abs(quality.mean(axis=0) - np.nanmean(rows.score, axis=0)).max() < 0.08
    chosen = rewarded.predictor.options()["chosen"]["temperature"]
    assert chosen > 10 * scored.predictor.options()["chosen"]["temperature"]


def test_a_reward_model_that_prefers_the_worst_answers_is_not_followed(tmp_path):
    path = write(tmp_path, with_rewards(table(), lambda name, score: -score))
    assert all(point.gain == 0 for point in fit(path).frontier)


def test_missing_rewards_are_no_news(tmp_path):
    full = with_rewards(table(800), lambda name, s: s * 1.0)
    rng = np.random.default_rng(0)
    holes = full.with_columns(
        pl.Series(c, np.where(rng.random(len(full)) < 0.4, np.nan, full[c].to_numpy()))
        for c in full.columns
        if c.startswith("reward::")
    )
    rows = outcomes.read(write(tmp_path, full), split="dev")
    quality = fit(write(tmp_path, holes, "holes.parquet")).predict(rows.queries).quality
    sums = np.array(rows.domains) == "sums"
    adder, speller = rows.experts.index("adder"), rows.experts.index("speller")
    assert (quality[sums, adder] > quality[sums, speller]).mean() > 0.95


def test_beta_zero_learns_from_tags_alone():
    """Rewards that contradict their tags in half of the rows: the tags' means decide."""
    x, scores, blocks = checks.training_data(600)
    own = Zooter(beta=1.0, temperature=1.0, penalty=1.0).fit(x, scores, blocks=blocks)
    tags = Zooter(beta=0.0, temperature=1.0, penalty=1.0).fit(x, scores, blocks=blocks)

    def within(model):
        logits = np.log(model.distribution(x))
        topic = x[:, blocks["domain"]].argmax(axis=1)
        return np.mean([logits[topic == t].std(axis=0).mean() for t in (0, 1)])

    assert within(tags) < within(own) / 2


def test_both_directions_agree_where_the_heads_can_express_the_labels():
    rng = np.random.default_rng(0)
    columns = rng.normal(size=(400, 3))
    wanted = _labels.soft(columns @ rng.normal(size=(3, 4)), 1.0)
    for direction in ("forward", "reverse"):
        heads = zooter.fit_heads(columns, wanted, 1e-3, direction)
        assert np.allclose(_labels.soft(heads.logits(columns), 1.0), wanted, atol=0.02)


@pytest.mark.parametrize("distance", [zooter._forward, zooter._reverse])
def test_gradients_are_those_of_the_divergence(distance):
    from scipy.optimize import check_grad

    rng = np.random.default_rng(0)
    wanted, at = _labels.soft(rng.normal(size=(3, 4)), 0.5), rng.normal(size=12)
    error = check_grad(
        lambda z: distance(z.reshape(3, 4), wanted)[0],
        lambda z: distance(z.reshape(3, 4), wanted)[1].ravel(),
        at,
    )
    assert error < 1e-5


@pytest.mark.parametrize("penalty", [1.0, 30.0])
def test_heads_are_those_of_a_penalised_multinomial_regression(penalty):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    columns = rng.normal(size=(300, 5)) * [10, 3, 1, 0.3, 0.1]
    winner = (columns @ rng.normal(size=(5, 4)) + rng.gumbel(size=(300, 4))).argmax(axis=1)
    heads = zooter.fit_heads(columns, np.eye(4)[winner], penalty)
    reference = LogisticRegression(C=1 / penalty, tol=1e-8, max_iter=5000).fit(columns, winner)
    found = _labels.soft(heads.logits(columns), 1.0)
    assert np.allclose(found, reference.predict_proba(columns), atol=2e-3)


def test_the_text_counts_for_less_where_the_domain_says_all():
    rng = np.random.default_rng(0)
    n, text = 400, rng.normal(size=(400, 40))
    domain = np.eye(4)[rng.integers(0, 4, n)]
    x, blocks = np.hstack([text, domain]), {"lexical": slice(0, 40), "domain": slice(40, 44)}

    def weights(said: np.ndarray, **options):
        scores = said + rng.normal(0, 1.0, said.shape)
        return Zooter(**options).fit(x, scores, blocks=blocks).view.weights[0]

    by_domain, by_text = 2 * domain, text[:, :4]
    assert weights(by_domain) == min(zooter.TEXT_WEIGHTS)
    assert weights(by_text, penalty=100.0) == max(zooter.TEXT_WEIGHTS)
    assert weights(by_domain, text_weight=2.5) == 2.5


def test_hard_labels_and_clusters_route_too(outcome_table):
    rows = outcomes.read(outcome_table, split="dev")
    sums = np.array(rows.domains) == "sums"
    adder, speller = rows.experts.index("adder"), rows.experts.index("speller")
    for options in ({"hard": True, "beta": 1.0}, {"tags": "clusters=4"}, {"tags": "none"}):
        quality = fit(outcome_table, **options).predict(rows.queries).quality
        assert (quality[sums, adder] > quality[sums, speller]).mean() > 0.9


def test_a_saved_router_repeats_itself(tmp_path, outcome_table):
    router = fit(outcome_table, direction="reverse")
    router.save(tmp_path / "router")
    again = Router.load(tmp_path / "router")
    rows = outcomes.read(outcome_table, split="dev")
    assert np.array_equal(again.predict(rows.queries).quality, router.predict(rows.queries).quality)
    x = again.encoder.encode(rows.queries)
    assert np.allclose(again.predictor.distribution(x).sum(axis=1), 1)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"beta": 2.0}, "option beta of predictor 'zooter' must be at most 1, not 2.0"),
        ({"tags": "clusters=one"}, "clusters=K"),
        ({"tags": "topics"}, "'topics'"),
        ({"direction": "sideways"}, "must be 'forward' or 'reverse', not 'sideways'"),
        ({"temperature": -1.0}, "temperature of predictor 'zooter' must be more than 0"),
        ({"text_weight": 0.0}, "option text_weight of predictor 'zooter' must be more than 0"),
        ({"untagged": "maybe"}, "must be 'own' or 'mean'"),
    ],
)
def test_options_that_cannot_be_meant_are_named(outcome_table, options, named):
    with pytest.raises(BadInput, match=named):
        fit(outcome_table, **options)


def test_a_measure_that_the_table_lacks_is_named(outcome_table):
    with pytest.raises(BadTable, match="routewright reward"):
        fit(outcome_table, reward="reward")


# --- a language model of one's own -----------------------------------------------------------


@pytest.fixture(scope="module")
def readable(tmp_path_factory):
    """A tiny encoder, and a table whose prompts it has words for."""
    words = {"sums": "list function", "words": "what word"}
    prompt = pl.col("domain").replace_strict(words) + " of the " + pl.col("id")
    frame = table(240).with_columns(prompt=prompt)
    base = tiny_base(tmp_path_factory.mktemp("base") / "bert")
    return base, write(tmp_path_factory.mktemp("table"), frame)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_fine_tuned_base_finds_the_specialists_and_repeats_itself(readable, tmp_path, direction):
    base, path = readable
    args = ["fit", str(path), "--out", str(tmp_path / "router"), "--predictor", "zooter"]
    settings = (f"base={base}", "tune=full", "learning_rate=5e-3", f"direction={direction}")
    args += [part for setting in settings for part in ("--option", setting)]
    done = CliRunner().invoke(app, args)
    assert done.exit_code == 0, done.output
    first, again = (Router.load(tmp_path / "router") for _ in range(2))
    rows = outcomes.read(path, split="dev")
    quality = first.predict(rows.queries).quality
    sums = np.array(rows.domains) == "sums"
    adder, speller = rows.experts.index("adder"), rows.experts.index("speller")
    assert (quality[sums, adder] > quality[sums, speller]).mean() > 0.95
    assert (quality[~sums, adder] < quality[~sums, speller]).mean() > 0.95
    assert np.array_equal(again.predict(rows.queries).quality, quality)


def test_the_softmax_of_a_fine_tuned_base_is_that_of_its_labels(readable):
    """Two kinds of prompt and tag means alone: each kind's softmax is its tag's mean label."""
    base, path = readable
    rows = outcomes.read(path, split="train")
    texts = np.array([query.text for query in rows.queries], dtype=object)
    options = {"beta": 0.0, "temperature": 0.5, "leave_one_out": False, "shrinkage": 0.0}
    model = Zooter(**options, base=str(base), tune="full", epochs=20, learning_rate=5e-3)
    model.given(rows).fit(texts, rows.score, blocks={})
    label = _labels.soft(rows.score, 0.5)
    for kind in ("sums", "words"):
        mine = np.array(rows.domains) == kind
        found = model.distribution(texts[mine]).mean(axis=0)
        assert np.allclose(found, label[mine].mean(axis=0), atol=0.03)


def test_a_language_model_and_clusters_do_not_go_together(outcome_table):
    with pytest.raises(BadInput, match="routewright tag --clusters"):
        fit(outcome_table, tune="lora", tags="clusters=3")


# --- from answers alone ----------------------------------------------------------------------


def unscored(n: int = 60) -> pl.DataFrame:
    """Whole answers and no scores: each expert is right on its own topic."""
    sums = [i % 2 == 0 for i in range(n)]
    return pl.DataFrame(
        {
            "id": [f"q{i}" for i in range(n)],
            "prompt": [f"{'add the' if s else 'spell the'} word {i}" for i, s in enumerate(sums)],
            "text::adder": ["that is right" if s else "wrong" for s in sums],
            "text::speller": ["wrong" if s else "that is right" for s in sums],
            "cost::adder": [1e-5] * n,
            "cost::speller": [1e-5] * n,
        }
    )


def critic(body) -> str:
    """Names tags, rates one answer or compares two, whatever the prompt wants."""
    text = body["messages"][-1]["content"]
    if "<answer-1>" in text:
        first = text.split("<answer-1>", 1)[1].split("</answer-1>", 1)[0]
        return f"Better: {1 if 'right' in first else 2}"
    if "<answer>" in text:
        return f"Rating: {9 if 'right' in text.split('<answer>', 1)[1] else 2}"
    return '["addition"]' if "add the" in text else '["spelling"]'


@pytest.mark.parametrize("kind", ["judge", "pairwise"])
def test_answers_alone_are_tagged_rated_and_routed_from_the_command_line(tmp_path, kind):
    upstream = Upstream(says=critic)
    table_, tagged, rated = (tmp_path / f"{name}.parquet" for name in ("t", "tagged", "rated"))
    unscored().write_parquet(table_)

    def command(*args: str) -> str:
        done = CliRunner().invoke(app, [*args, "--config", str(tmp_path / "c.yaml")])
        assert done.exit_code == 0, done.output
        return done.output

    def work() -> None:
        command("tag", str(table_), "--expert", "critic", "--out", str(tagged))
        told = command("reward", str(tagged), "--model", f"{kind}=critic", "--out", str(rated))
        assert "120 of 120 answers rated for US$" in told
        asked = upstream.requests
        again = command("reward", str(tagged), "--model", f"{kind}=critic", "--out", str(rated))
        assert upstream.requests == asked, "nothing is paid for twice"
        assert "120 of the asks or ratings from the journal" in again

    async def run() -> None:
        async with running(upstream):
            policies = {"default": {"strategy": "fixed", "options": {"expert": "critic"}}}
            config = {"version": 1, "experts": [upstream.expert("critic")], "policies": policies}
            (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
            await asyncio.to_thread(work)

    asyncio.run(run())
    frame = pl.read_parquet(rated)
    assert frame["tags"].to_list()[:2] == [["addition"], ["spelling"]]
    assert frame["reward_cost::adder"].min() > 0
    args = ["fit", str(rated), "--predictor", "zooter", "--beta", "0.3", "--tags", "table"]
    done = CliRunner().invoke(app, [*args, "--out", str(tmp_path / "router")])
    assert done.exit_code == 0, done.output
    rows = outcomes.read(rated)
    quality = Router.load(tmp_path / "router").predict(rows.queries).quality
    assert (quality.argmax(axis=1) == np.arange(len(rows)) % 2).all()


def test_rewards_of_another_scale_stand_in_for_scores_that_are_not_there(tmp_path):
    frame = unscored(20).with_columns(
        pl.Series("reward::adder", np.linspace(-30.0, 10.0, 20)),
        pl.Series("reward::speller", [None] + [-10.0] * 19),
    )
    score = outcomes.read(write(tmp_path, frame)).score
    assert score[0, 0] == 0
    assert score[-1, 0] == 1
    assert np.isnan(score[0, 1])
    assert np.allclose(score[1:, 1], 0.5)
