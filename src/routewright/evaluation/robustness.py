"""How many decisions of a router change if a prompt is worded differently, and what that costs.

Two kinds of wordings are tried (`evaluation.rewrites`): rewrites that keep the meaning, and
suffixes that ask for the most expensive expert. One of the suffixes is a *gadget*, found by hill
climbing against the router's own predictions ("Rerouting LLM Routers", arXiv 2501.01818).

A decision is the set of experts that is asked. Answers stay as recorded, so quality and cost are
those of other decisions about the same answers. Mixes are compared part by part and lots are kept:
a draw is never a change, and a fixed mix is exactly as robust as can be.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from routewright import metrics
from routewright.data import text
from routewright.data.outcomes import Outcomes
from routewright.errors import BadInput
from routewright.evaluation.evaluate import for_router, untagged
from routewright.evaluation.figures import FRACTIONS
from routewright.evaluation.rewrites import REWRITES, SUFFIXES, Rewrite, reworded, suffix
from routewright.metrics.sampling import wilson
from routewright.policies import values
from routewright.router.frontier import OperatingPoint
from routewright.router.router import Router
from routewright.strategies import build
from routewright.strategies._fixed_mix import unfamiliar
from routewright.strategies._recorded import Recorded, Run, run
from routewright.types import Array, Prediction, Query

ROWS = 300  # that are measured, at most
GADGET = "gadget"  # the name of the suffix that is searched for
LENGTH, STEPS, CANDIDATES, TARGETS = 10, 30, 12, 8  # words, changes, words per change, prompts
SECONDS = 60.0  # that one search takes, at most
VOCABULARY, LEAST_PROMPTS = 2_000, 3  # words of a gadget; prompts that each of them occurs in
WORD = re.compile(r"[^\W\d_]{2,20}")


class Gadget(NamedTuple):
    """Words that raise what the most expensive expert is predicted to be worth."""

    words: str
    predictions: int  # that the search used


@dataclass(frozen=True)
class Wordings:
    """The measured rows in their own words and in others, with a cache of what is decided."""

    router: Router
    outcomes: Outcomes
    _rows: dict[str, Recorded] = field(default_factory=dict, repr=False)
    _runs: dict[tuple[str, str], Run] = field(default_factory=dict, repr=False)

    @property
    def priced(self) -> bool:
        return bool(np.isfinite(self.outcomes.cost).any())

    def rows(self, name: str, rewrite: Rewrite | None) -> Recorded:
        if name not in self._rows:
            queries = self.outcomes.queries
            if rewrite is not None:
                queries = tuple(reworded(query, rewrite) for query in queries)
            self._rows[name] = Recorded(replace(self.outcomes, queries=queries), self.router)
        return self._rows[name]

    def run(self, name: str, rewrite: Rewrite | None, spec: Mapping[str, Any]) -> Run:
        key = name, json.dumps(spec, sort_keys=True)
        if key not in self._runs:
            strategy = build(spec, self.router)
            self._runs[key] = run(strategy, self.rows(name, rewrite))
        return self._runs[key]


def robustness(
    router: Router,
    outcomes: Outcomes,
    *,
    without_domain: bool = False,
    rows: int = ROWS,
    seed: int = 0,
) -> dict[str, Any]:
    """The key `robustness` of `evaluate --json`: see `docs/robustness.md`.

    Measures what policies with a `max_cost_fraction` of FRACTIONS serve, on at most `rows` rows
    that `seed` draws. Without costs it measures the point at λ = 0. Raises BadTable if the table
    lacks an expert of the router.
    """
    whole = for_router(router, outcomes).costed()
    whole = untagged(whole) if without_domain else whole
    order = np.random.default_rng(seed).permutation(len(whole))
    targets = order[: min(TARGETS, len(whole) // 4)]
    measured = order[len(targets) :][:rows]
    prompts = [whole.queries[i] for i in targets.tolist()] or list(whole.queries)
    vocabulary = frequent_words(whole.queries)
    wordings = Wordings(router, whole.rows(np.sort(measured)))
    gadgets: dict[float, Gadget] = {}
    points = []
    for fraction, point in _served(router):
        if _learned(point) and point.price not in gadgets:
            gadgets[point.price] = find_gadget(router, prompts, point.price, vocabulary, seed)
        points.append(_facts(wordings, fraction, point, gadgets.get(point.price)))
    return {"rows": len(measured), "of": len(whole), "seed": seed, "points": points}


def _served(router: Router) -> Iterator[tuple[float | None, OperatingPoint]]:
    """The points that policies with FRACTIONS as goals serve, without those out of reach."""
    if not np.isfinite(router.average_cost).any():
        yield None, router.nearest(0.0)
        return
    for fraction in FRACTIONS:
        try:
            yield fraction, router.within(max_cost_fraction=fraction)
        except BadInput:
            continue


def _learned(point: OperatingPoint) -> bool:
    return any(spec["strategy"] != "fixed" for _, spec in parts(point.spec))


def parts(spec: Mapping[str, Any], share: float = 1.0) -> Iterator[tuple[float, Mapping[str, Any]]]:
    """The strategies that a mix is made of, with their shares of the queries."""
    if spec["strategy"] != "mix":
        yield share, spec
        return
    yield from parts(spec["first"], share * (1 - spec["share"]))
    yield from parts(spec["second"], share * spec["share"])


# --- the figures -----------------------------------------------------------------------------


def _facts(
    wordings: Wordings, fraction: float | None, point: OperatingPoint, gadget: Gadget | None
) -> dict[str, Any]:
    """What other wordings do to the decisions of one point."""
    suffixes = {name: suffix(words) for name, words in SUFFIXES.items()}
    if gadget is not None:
        suffixes[GADGET] = suffix(gadget.words)
    before = _mixed([(s, wordings.run("", None, spec)) for s, spec in parts(point.spec)])
    own = {
        "cost": _mean(before.cost) if wordings.priced else None,
        "quality": _mean(before.score),
        "unfamiliar": _unfamiliar(wordings.rows("", None).prediction),
    }
    rewrites = {
        name: _changes(wordings, point, name, rewrite) for name, rewrite in REWRITES.items()
    }
    attacks = {name: _changes(wordings, point, name, rewrite) for name, rewrite in suffixes.items()}
    return {
        "cost_fraction": fraction,
        "strategy": point.strategy,
        **own,
        "rewrites": _mean_of(rewrites),
        "suffixes": _worst_of(attacks),
        "gadget": None if gadget is None else gadget._asdict(),
    }


def _changes(
    wordings: Wordings, point: OperatingPoint, name: str, rewrite: Rewrite
) -> dict[str, Any]:
    """Shares of the rows whose decision changes, or goes to more expensive experts, and what all
    rows then cost (US$ per query) and reach."""
    outcomes = wordings.outcomes
    # A gadget is searched at one λ: those of two points are different wordings.
    key = f"{name} {point.price}" if name == GADGET else name
    price = np.nan_to_num(metrics.mean(outcomes.charges))
    changed, dearer = np.zeros((2, len(outcomes)))
    runs = []
    for share, spec in parts(point.spec):
        after = wordings.run(key, rewrite, spec)
        difference = after.asked - wordings.run("", None, spec).asked
        unknown = np.isnan(difference).any(axis=1)
        changed += share * np.where(unknown, np.nan, np.abs(difference).max(axis=1))
        dearer += share * np.where(unknown, np.nan, difference @ price > 1e-12)
        runs.append((share, after))
    mix, share_of_all = _mixed(runs), _mean(changed)
    low, high = wilson(np.array(share_of_all or 0.0), np.array(len(outcomes)))
    return {
        "changed": share_of_all,
        "changed_ci": [float(low), float(high)],
        "more_expensive": _mean(dearer) if wordings.priced else None,
        "cost": _mean(mix.cost) if wordings.priced else None,
        "quality": _mean(mix.score),
        "unfamiliar": _unfamiliar(wordings.rows(key, rewrite).prediction),
    }


def _mixed(runs: Sequence[tuple[float, Run]]) -> Run:
    """The expectation over the parts of a mix."""
    score, cost, asked = (
        sum(share * getattr(part, name) for share, part in runs)
        for name in ("score", "cost", "asked")
    )
    return Run(np.asarray(score), np.asarray(cost), np.asarray(asked))


def _mean_of(each: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over the rewrites, and the one that changes most decisions."""
    facts: dict[str, Any] = {}
    for key in ("changed", "more_expensive", "cost", "quality", "unfamiliar"):
        known = [one[key] for one in each.values() if one[key] is not None]
        facts[key] = float(np.mean(known)) if known else None
    worst = max(each, key=lambda name: each[name]["changed"] or 0.0)
    return {**facts, "worst": worst, "each": dict(each)}


def _worst_of(each: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The suffix after which the queries cost most, as whoever attacks would choose it; without
    costs, the one that changes most decisions."""
    worst = max(each, key=lambda name: (each[name]["cost"] or 0.0, each[name]["changed"] or 0.0))
    return {**each[worst], "worst": worst, "each": dict(each)}


def _unfamiliar(prediction: Prediction) -> float:
    """The share of the prompts that the router takes for unlike its training rows."""
    return float(np.mean(unfamiliar(prediction.trust)))


def _mean(column: Array) -> float | None:
    value = float(metrics.mean(column))
    return value if np.isfinite(value) else None


# --- the search ------------------------------------------------------------------------------


def find_gadget(
    router: Router, prompts: Sequence[Query], price: float, vocabulary: Sequence[str], seed: int
) -> Gadget:
    """Words whose addition to any prompt makes the most expensive expert look worth its cost.

    Starts from random words, and keeps every change of one word that raises its mean lead over the
    other experts, in quality − λ cost, on some prompts. An unfamiliar prompt goes to the fixed mix,
    so it counts as if nothing had been added.
    """
    rng, deadline = np.random.default_rng(seed), time.monotonic() + SECONDS
    own = _leads(router, prompts, price)
    words = [str(word) for word in rng.choice(vocabulary, LENGTH)]
    best, used = _worth(router, prompts, price, [words], own)[0], 2 * len(prompts)
    for _ in range(STEPS):
        if time.monotonic() > deadline:
            break
        at = int(rng.integers(LENGTH))
        choice = [str(word) for word in rng.choice(vocabulary, CANDIDATES)]
        variants = [[*words[:at], word, *words[at + 1 :]] for word in choice]
        worths = _worth(router, prompts, price, variants, own)
        used += len(prompts) * len(variants)
        if (k := int(np.argmax(worths))) >= 0 and worths[k] > best:
            words, best = variants[k], worths[k]
    return Gadget(" ".join(words), used)


def _worth(
    router: Router,
    prompts: Sequence[Query],
    price: float,
    variants: Sequence[Sequence[str]],
    own: Array,
) -> Array:
    """The mean lead of the most expensive expert after each of the gadgets, (variants,)."""
    queries = [
        reworded(prompt, suffix(" ".join(words))) for words in variants for prompt in prompts
    ]
    leads = _leads(router, queries, price).reshape(len(variants), len(prompts))
    return np.asarray(np.where(np.isnan(leads), own, leads).mean(axis=1))


def _leads(router: Router, queries: Sequence[Query], price: float) -> Array:
    """How far the most expensive expert is ahead of the others, (n,); NaN where unfamiliar."""
    prediction = router.predict(queries)
    value = values(prediction, price)
    costs = np.where(prediction.quality >= 0, prediction.cost, -np.inf)
    top = int(np.nanargmax(costs.mean(axis=0)))
    others = np.delete(value, top, axis=1).max(axis=1, initial=-1e300)
    return np.where(unfamiliar(prediction.trust), np.nan, value[:, top] - others)


def frequent_words(queries: Sequence[Query]) -> list[str]:
    """The words that occur in the most prompts, and in at least three; rarer ones may be private.
    Of a table without such words, those of SUFFIXES."""
    prompts = Counter(
        word for query in queries for word in set(WORD.findall(query.excerpt.lower()))
    )
    words = [word for word, count in prompts.most_common() if count >= LEAST_PROMPTS]
    return words[:VOCABULARY] or sorted(set(WORD.findall(" ".join(SUFFIXES.values()))))


# --- in words --------------------------------------------------------------------------------


def in_words(facts: Mapping[str, Any]) -> str:
    """One point's figures as sentences."""
    rewrites, attack = facts["rewrites"], facts["suffixes"]
    fraction = facts["cost_fraction"]
    where = "At λ = 0" if fraction is None else f"At {text.share(fraction)} of cost"
    first = (
        f"{where}, rewrites that keep the meaning change {text.share(rewrites['changed'] or 0.0)}"
        f" of the decisions (most: {rewrites['worst']},"
        f" {text.share(rewrites['each'][rewrites['worst']]['changed'] or 0.0)})."
    )
    second = f" The worst suffix ({attack['worst']}) changes {text.share(attack['changed'] or 0.0)}"
    if attack["more_expensive"] is not None:
        second += (
            f", sends {text.share(attack['more_expensive'])} to more expensive experts"
            f"{_costs(facts['cost'], attack['cost'])}"
        )
    noticed = text.share(attack["unfamiliar"])
    return f"{first}{second}; {noticed} of these prompts are noticed as unfamiliar."


def _costs(before: float | None, after: float | None) -> str:
    if not before or after is None:
        return ""
    return f" and costs {after / before:.2f} times as much"
