"""A language model as predictor: what it can express, how it is trained, kept and refused."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from models import QUICK, tiny_base
from routewright import checks
from routewright.cli import main
from routewright.errors import BadConfig, BadInput
from routewright.fitting.fit import fit
from routewright.prediction.predictors import fit_held_out, inputs
from routewright.prediction.predictors.transformer import Transformer
from routewright.router.router import Router
from test_gateway import create, served
from test_gateway_router import SUM, policies, table
from upstream import Upstream

KINDS = ("bert", "llama")


@pytest.fixture(scope="module", params=KINDS)
def base(request, tmp_path_factory) -> str:
    return str(tiny_base(tmp_path_factory.mktemp("base") / request.param, request.param))


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> str:
    return str(tiny_base(tmp_path_factory.mktemp("base") / "bert"))


@pytest.fixture(scope="module")
def lesson():
    """Texts (n,), scores (n, 3) of two specialists and a generalist, and the topics (n,)."""
    x, scores, blocks = checks.training_data(400)
    return (
        inputs(Transformer(), x, checks.as_queries(x)),
        scores,
        x[:, blocks["domain"]].argmax(axis=1),
    )


def fitted(lesson, base: str, **options) -> Transformer:
    texts, scores, _ = lesson
    return Transformer(base, **{**QUICK, **options}).fit(texts, scores, blocks={})


@pytest.mark.parametrize("head", ["bilinear", "mlp"])
def test_specialists_win_on_their_topic(lesson, base, head):
    texts, _, topic = lesson
    mean = fitted(lesson, base, head=head).predict(texts).mean
    assert (mean[topic == 0, 0] > mean[topic == 0, 1]).mean() > 0.95
    assert (mean[topic == 1, 0] < mean[topic == 1, 1]).mean() > 0.95


def test_a_small_base_trains_on_one_thread_and_others_find_theirs_again(lesson, bert):
    import torch

    seen = set()

    def tell(doing: str, share: float) -> None:
        seen.add(torch.get_num_threads())

    torch.set_num_threads(2)
    try:
        fitted(lesson, bert, epochs=1, progress=tell)
        assert 1 in seen
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_specialists_cannot_win_under_rasch(lesson, base):
    mean = fitted(lesson, base, head="rasch").predict(lesson[0]).mean
    order = np.argsort(mean, axis=1)
    assert (order == order[0]).all()
    assert mean.std(axis=0).min() > 0, "queries differ in difficulty all the same"


@pytest.mark.parametrize("loss", ["kl", "reverse_kl"])
def test_divergences_from_the_softmax_of_scores_find_the_specialists_too(lesson, bert, loss):
    texts, _, topic = lesson
    mean = fitted(lesson, bert, loss=loss).predict(texts).mean
    assert (mean[topic == 0, 0] > mean[topic == 0, 1]).mean() > 0.95
    assert (mean[topic == 1, 0] < mean[topic == 1, 1]).mean() > 0.95


def test_a_causal_base_keeps_the_contract_of_predictors(tmp_path: Path):
    base = str(tiny_base(tmp_path / "llama", "llama"))
    checks.check_predictor(partial(Transformer, base, **QUICK), tmp_path)


@pytest.mark.parametrize("tune", ["lora", "full", "frozen"])
def test_what_is_tuned_is_what_is_stored(lesson, bert, tune):
    stored = fitted(lesson, bert, tune=tune, epochs=1).arrays()
    base = {name for name in stored if name.startswith("base.")}
    assert "head.experts" in stored
    if tune == "frozen":
        assert not base
    else:
        assert base
        assert all(("lora" in name) == (tune == "lora") for name in base)


class Killed(Exception):
    """Stands for the end of the process: nothing after it runs."""


def test_a_killed_training_goes_on_to_the_same_weights(lesson, bert, tmp_path: Path):
    texts, scores, _ = lesson
    fold = np.arange(len(texts)) % 5
    make = partial(Transformer, bert, **QUICK)
    whole, belief = fit_held_out(make, texts, scores, blocks={}, fold=fold)
    steps: list[float] = []

    def dies(doing: str, share: float) -> None:
        steps.append(share)
        if share > 0.7:  # within the last of three trainings
            raise Killed

    folder = tmp_path / "checkpoints"
    with pytest.raises(Killed):
        make(folder=str(folder), progress=dies).fit_held_out(texts, scores, blocks={}, fold=fold)
    assert steps == sorted(steps)
    resumed: list[float] = []
    again = make(folder=str(folder), progress=lambda doing, share: resumed.append(share))
    belief_again = again.fit_held_out(texts, scores, blocks={}, fold=fold)
    assert len(resumed) < len(steps) / 2, "what was done must not be done again"
    assert np.array_equal(belief_again.mean, belief.mean)
    assert all(np.array_equal(again.weights[name], whole.weights[name]) for name in whole.weights)


def test_checkpoints_of_another_training_are_refused(lesson, bert, tmp_path: Path):
    fitted(lesson, bert, epochs=1, folder=str(tmp_path))
    with pytest.raises(BadInput, match="another training"):
        fitted(lesson, bert, epochs=2, folder=str(tmp_path))


def test_accumulated_batches_equal_one_large_batch(lesson, bert):
    large = fitted(lesson, bert, epochs=1, batch=40, accumulate=1).weights
    small = fitted(lesson, bert, epochs=1, batch=10, accumulate=4).weights
    other = fitted(lesson, bert, epochs=1, batch=10, accumulate=2).weights
    assert all(np.allclose(large[name], small[name], atol=1e-4) for name in large)
    assert not all(np.allclose(large[name], other[name], atol=1e-4) for name in large)


def test_unknown_scores_teach_nothing(lesson, bert):
    texts, scores, topic = lesson
    hidden = scores.copy()
    hidden[topic == 1, 1] = np.nan  # the second expert is only known where it is bad
    mean = fitted((texts, hidden, topic), bert).predict(texts).mean
    known = np.nanmean(hidden[:, 1])
    assert abs(mean[topic == 0, 1].mean() - known) < 0.05
    nothing = np.vstack([hidden, np.full((40, 3), np.nan)])
    more = np.concatenate([texts, texts[:40]])
    assert np.allclose(fitted((more, nothing, topic), bert).predict(texts).mean, mean, atol=1e-6), (
        "rows without any score must not count"
    )


def test_a_base_that_changed_is_refused(lesson, tmp_path: Path):
    base = tiny_base(tmp_path / "base")
    model = fitted(lesson, str(base), epochs=1)
    options, arrays = checks.stored(model, tmp_path)
    tiny_base(base, seed=1)
    with pytest.raises(BadInput, match="has changed since the router was fitted"):
        Transformer.load(options, arrays).predict(lesson[0])


@pytest.mark.parametrize("package", ["peft", "transformers", "accelerate"])
def test_a_missing_extra_is_one_clear_error(lesson, bert, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(BadInput, match=r"needs more packages: pip install 'routewright\[lm\]'"):
        fitted(lesson, bert)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "no/such/folder"}, "base 'no/such/folder' cannot be loaded"),
        ({"tune": "full", "precision": "bfloat16"}, "cannot be trained with tune 'full'"),
    ],
)
def test_mistakes_name_the_way_out(lesson, bert, monkeypatch, options, message):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BadInput, match=message):
        fitted(lesson, **{"base": bert, **options})


def test_code_that_comes_with_a_base_is_not_run(lesson, bert, tmp_path: Path):
    folder = tiny_base(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "odd", "auto_map": {"AutoConfig": "odd.Odd", "AutoModel": "odd.Odd"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "odd.py").write_text("raise SystemExit('ran')")
    with pytest.raises(BadInput, match="cannot be loaded"):
        fitted(lesson, str(folder))


def test_a_router_that_reads_with_a_language_model_works_end_to_end(
    bert, outcome_table, tmp_path: Path, monkeypatch, capsys
):
    folder, figures = tmp_path / "R", tmp_path / "figures.json"
    options = [f"base={bert}", *(f"{key}={value}" for key, value in QUICK.items())]
    words = [word for option in options for word in ("--option", option)]
    run(monkeypatch, "fit", outcome_table, "--out", folder, "--predictor", "transformer", *words)
    run(monkeypatch, "evaluate", folder, outcome_table, "--json", figures)
    assert json.loads(figures.read_text())["n"] == 100
    capsys.readouterr()
    run(monkeypatch, "route", folder, "what is the word")
    assert capsys.readouterr().out.strip() in Router.load(folder).experts
    told = json.loads((folder / "router.json").read_text())["predictor"]
    assert told["name"] == "transformer"
    assert set(told["options"]["facts"]) == {"architecture", "parameters", "sha256"}
    assert {path.name for path in folder.iterdir()} == {"router.json", "router.safetensors"}


def test_the_gateway_serves_such_a_router_and_refuses_it_without_its_base(tmp_path: Path):
    base, folder = tiny_base(tmp_path / "base"), str(tmp_path / "R")
    options = {**QUICK, "base": str(base), "epochs": 1}
    fit(table(), encoder="lexical", predictor="transformer", options=options).save(folder)
    ask = create(messages=SUM)
    assert served(ask, Upstream(), Upstream(), policies=policies(folder)).model in (
        "small",
        "large",
    )
    shutil.rmtree(base)
    with pytest.raises(BadConfig, match=r"policy 'default': base '.*' cannot be loaded"):
        served(ask, Upstream(), Upstream(), policies=policies(folder))


def run(monkeypatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["routewright", *map(str, words)])
    with pytest.raises(SystemExit) as exit:
        main.run()
    assert not exit.value.code
