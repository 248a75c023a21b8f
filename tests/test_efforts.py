"""A model at two efforts is two experts, from the table to the gateway."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import polars as pl

from routewright.router.router import Router
from tables import write
from upstream import Upstream, asked, config_of, front, running

LOW, HIGH = "gpt-5@low", "gpt-5@high"


def table(rows: int = 240) -> pl.DataFrame:
    """Sums, which a low effort suffices for, and proofs, which need a high one."""
    rng = np.random.default_rng(0)
    hard = rng.random(rows) < 0.5
    words = [("prove the theorem about" if h else "add the numbers in") for h in hard]
    return pl.DataFrame(
        {
            "prompt": [f"Please {word} example {i}" for i, word in enumerate(words)],
            "split": ["dev" if i % 4 == 0 else "train" for i in range(rows)],
            f"score::{LOW}": (rng.random(rows) < np.where(hard, 0.1, 0.9)).astype(float),
            f"score::{HIGH}": (rng.random(rows) < 0.9).astype(float),
            f"cost::{LOW}": np.full(rows, 0.001),
            f"cost::{HIGH}": np.full(rows, 0.01),
        }
    )


def test_a_model_at_two_efforts_is_two_experts(routewright, tmp_path):
    path, folder = write(tmp_path, table()), tmp_path / "router"
    words = ("--out", folder, "--experts", f"{LOW},{HIGH}", "--predictor", "linear")
    code, _, error = routewright("fit", path, *words)
    assert code == 0, error
    router = Router.load(folder)
    assert set(router.experts) == {LOW, HIGH}
    code, printed, error = routewright("evaluate", folder, path, "--split", "dev", "--json", "-")
    assert code == 0, error
    assert set(json.loads(printed)["experts"]) == {LOW, HIGH}
    provider = Upstream()
    policy = {"strategy": "auto", "router": str(folder), "max_cost_fraction": 0.6}

    async def run():
        async with running(provider):
            entries = [
                provider.expert(name, model="gpt-5", options={"reasoning_effort": effort})
                for name, effort in ((LOW, "low"), (HIGH, "high"))
            ]
            async with front(config_of(*entries, policies={"default": policy})) as client:
                answers = client.chat.completions.with_raw_response
                texts = ("Please add the numbers in example 7", "Please prove the theorem about 8")
                for model, text in (("auto", texts[0]), ("auto", texts[1]), (HIGH, texts[0])):
                    reply = await answers.create(model=model, messages=asked(text))
                    yield reply.headers["x-routewright-expert"]

    async def names():
        return [name async for name in run()]

    assert asyncio.run(names()) == [LOW, HIGH, HIGH]
    sent = [(body["model"], body["reasoning_effort"]) for body in provider.bodies]
    assert sent == [("gpt-5", "low"), ("gpt-5", "high"), ("gpt-5", "high")]
