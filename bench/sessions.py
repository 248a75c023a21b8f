"""What conversations of agents cost when the choice knows them: tool loops, prompts that grow.

    python -m bench sessions

A router of pool P1 is fitted on 1,600 training rows of `mmlu_pro`. An agent then holds
conversations of 20 turns through a real gateway: each turn is a question of `dev`, followed by one
to five results of tools, and every request repeats all that went before. An upstream stands for
all experts: it bills input that it has seen in that conversation before at a tenth of the price,
and asks for tools as the agent's plan says. The quality of a request is the recorded score, on the
question of its turn, of the expert that answered it: who works on a step decides how good it is.

The policies differ in `sticky` alone: `none` decides every request as if it were the first,
`session` keeps tool loops and counts caches, `always` stays with the first expert, and "dearest"
asks the dearest expert alone. Intervals are 95 % bootstrap intervals over conversations, paired
with `none`. The last table says what each costs at the quality of `none`, less .005, on the line
through its points.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from rich.console import Console
from rich.table import Table

from bench._data import REAL, read
from routewright.config import Config
from routewright.data.outcomes import Outcomes
from routewright.fitting.fit import fit
from routewright.gateway.app import build
from routewright.gateway.server import listen, url_of
from routewright.types import Indices

CONVERSATIONS, TURNS, MOST_STEPS = 24, 20, 5
SYSTEM, RESULT, ANSWER = 6000, 800, 300  # tokens of the first message, a tool's result, an answer
CACHED = 0.1  # the price of cached input, as a part of the price of input
BUDGETS = (0.1, 0.25, 0.5, 0.75)
SLACK = 0.005  # of quality
ARMS = ("none", "session", "always")
HEADS = ("budget", "sticky", "US$", "of none", "quality", "− none", "switches", "in loops")
WORD = "item "  # a token and a quarter, by the characters


@dataclass
class Experts:
    """All experts at one address. `prices` are US$ per million tokens of input and output."""

    prices: dict[str, tuple[float, float]]
    rows: Outcomes
    # Conversation ▶ the row of its turn, and the further steps of that.
    plan: dict[str, tuple[int, int]] = field(default_factory=dict)
    seen: dict[tuple[str, str], int] = field(default_factory=dict)  # ▶ tokens that are cached
    paid: dict[str, float] = field(default_factory=dict)  # conversation ▶ US$

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        raw, more = b"", True
        while more:
            message = await receive()
            raw, more = raw + message.get("body", b""), message.get("more_body", False)
        reply = json.dumps(self.answer(json.loads(raw))).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        expert, messages = body["model"], body["messages"]
        conversation = messages[0]["content"].split()[0]
        sent = sum(len(json.dumps(m.get("content"))) for m in messages) // 4
        cached = min(sent, self.seen.get((expert, conversation), 0))
        self.seen[expert, conversation] = sent
        price_in, price_out = self.prices[expert]
        usd = ((sent - cached) + CACHED * cached) * price_in + ANSWER * price_out
        self.paid[conversation] = self.paid.get(conversation, 0.0) + usd / 1e6
        place, steps = self.plan[conversation]
        assert self.rows.answers is not None
        said = self.rows.answers[place, self.rows.experts.index(expert)]
        message: dict[str, Any] = {"role": "assistant", "content": None if steps else said or "?"}
        if steps:
            call = {"id": f"{conversation}-{time.monotonic_ns()}", "type": "function"}
            message["tool_calls"] = [{**call, "function": {"name": "look", "arguments": "{}"}}]
        usage = {"prompt_tokens": sent, "completion_tokens": ANSWER}
        usage["prompt_tokens_details"] = {"cached_tokens": cached}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}


@contextmanager
def served(app: Any) -> Iterator[str]:
    """An application on a socket of its own, in a thread."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="auto"))
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield url_of(listener)
    finally:
        server.should_exit = True
        thread.join()


@dataclass
class Talk:
    """What one conversation took."""

    quality: float = 0.0  # mean over its turns
    usd: float = 0.0
    switches: int = 0  # between turns
    in_loops: int = 0  # switches while tools ran


def config(router: Path, url: str, prices: dict[str, tuple[float, float]], arm: str, budget: float):
    experts = [
        {
            "name": name,
            "base_url": url,
            "input_per_mtok": price_in,
            "output_per_mtok": price_out,
            "price_list": "none",
            "cached_input_per_mtok": CACHED * price_in,
        }
        for name, (price_in, price_out) in prices.items()
    ]
    policy = {"strategy": "auto", "router": str(router), "max_cost_fraction": budget}
    sticky = "none" if arm == "dearest" else arm
    policies = {"default": {**policy, "sticky": sticky}}
    return Config.model_validate(
        {"version": 1, "experts": experts, "policies": policies, "server": {"store": "none"}}
    )


def talk(
    client: Any, url: str, experts: Experts, rows: Outcomes, places: Indices, name: str, model: str
) -> Talk:
    """One conversation, whose turns are the questions of these rows."""
    rng = np.random.default_rng(int(name))
    steps = rng.integers(1, MOST_STEPS + 1, len(places))
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": f"{name} " + WORD * (SYSTEM * 4 // len(WORD))}
    ]
    done, last = Talk(), None
    scores = []
    for place, count in zip(places.tolist(), steps.tolist(), strict=True):
        messages.append({"role": "user", "content": rows.queries[place].text})
        for step in range(count + 1):
            experts.plan[name] = place, count - step
            reply = client.post(
                f"{url}/v1/chat/completions",
                json={"model": model, "messages": messages, "tools": [TOOL]},
            )
            assert reply.status_code == 200, reply.text
            answer = reply.json()
            expert, message = answer["model"], answer["choices"][0]["message"]
            if last is not None and expert != last:
                done.switches += step == 0
                done.in_loops += step > 0
            last = expert
            scores.append(rows.score[place, rows.experts.index(last)])
            messages.append(message)
            for call in message.get("tool_calls") or ():
                result = WORD * (RESULT * 4 // len(WORD))
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    done.quality, done.usd = float(np.nanmean(scores)), experts.paid[name]
    return done


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}


def main() -> None:
    train, dev = read("mmlu_pro P1", "train"), read("mmlu_pro P1", "dev")
    if train is None or dev is None:
        return
    models = json.loads((REAL / "mmlu_pro.json").read_text(encoding="utf-8"))["models"]
    prices = {n: (models[n]["price_in"], models[n]["price_out"]) for n in train.experts}
    lot = np.random.default_rng(0).permutation(len(train))[:1600]
    order = np.random.default_rng(1).permutation(len(dev))[: CONVERSATIONS * TURNS]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "router"
        fit(train.rows(lot)).save(path)
        talks = {
            (budget, arm): run(path, prices, dev, order, arm, budget)
            for budget in BUDGETS
            for arm in ARMS
        }
        dearest = run(path, prices, dev, order, "dearest", 1.0)
    table = Table(*HEADS)
    for (budget, arm), row in talks.items():
        table.add_row(f"{budget:g}", arm, *cells(row, talks[budget, "none"]))
    table.add_row("", "dearest", *cells(dearest, dearest))
    Console(width=140).print(table)
    Console(width=140).print(equal(talks, dearest))


def equal(talks: dict[tuple[float, str], list[Talk]], dearest: list[Talk]) -> Table:
    """What each policy costs at the quality of `none`, less SLACK."""
    table = Table("quality of none at", "quality", "none US$", *(f"{arm} US$" for arm in ARMS[1:]))
    for budget in BUDGETS:
        usd, goal = totals(talks[budget, "none"])
        row = [f"{budget:g}", f"{goal:.3f}", f"{usd:.2f}"]
        for arm in ARMS[1:]:
            points = sorted([totals(talks[b, arm]) for b in BUDGETS] + [totals(dearest)])
            costs, qualities = zip(*points, strict=True)
            best = np.maximum.accumulate(qualities)
            cost = float(np.interp(goal - SLACK, best, costs))
            row.append(f"{cost:.2f} ({cost / usd - 1:+.0%})")
        table.add_row(*row)
    return table


def totals(talks: list[Talk]) -> tuple[float, float]:
    """US$ of all conversations, and their mean quality."""
    return sum(t.usd for t in talks), float(np.mean([t.quality for t in talks]))


def run(
    router: Path,
    prices: dict[str, tuple[float, float]],
    rows: Outcomes,
    order: Indices,
    arm: str,
    budget: float,
) -> list[Talk]:
    """All conversations through one gateway."""
    import httpx2 as httpx

    model = max(prices, key=lambda name: prices[name]) if arm == "dearest" else "auto"
    experts = Experts(prices, rows)
    with (
        served(experts) as upstream,
        served(build(config(router, f"{upstream}/v1", prices, arm, budget))) as url,
        httpx.Client(timeout=600) as client,
    ):
        return [
            talk(client, url, experts, rows, order[i * TURNS : (i + 1) * TURNS], f"{i}", model)
            for i in range(CONVERSATIONS)
        ]


def cells(talks: list[Talk], blind: list[Talk]) -> list[str]:
    usd, quality = np.array([t.usd for t in talks]), np.array([t.quality for t in talks])
    usd_0, quality_0 = np.array([t.usd for t in blind]), np.array([t.quality for t in blind])
    draws = np.random.default_rng(0).integers(0, len(talks), (2000, len(talks)))
    ratio = np.quantile(usd[draws].sum(1) / usd_0[draws].sum(1), (0.025, 0.975))
    gain = np.quantile((quality - quality_0)[draws].mean(1), (0.025, 0.975))
    return [
        f"{usd.sum():.3f}",
        f"{usd.sum() / usd_0.sum():.2f} ({ratio[0]:.2f} … {ratio[1]:.2f})",
        f"{quality.mean():.3f}",
        f"{(quality - quality_0).mean():+.3f} ({gain[0]:+.3f} … {gain[1]:+.3f})",
        str(sum(t.switches for t in talks)),
        str(sum(t.in_loops for t in talks)),
    ]


if __name__ == "__main__":
    main()
