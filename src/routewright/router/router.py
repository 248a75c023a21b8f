"""A trained router: encoder, predictor, cost model and frontier, saved as a plain folder.

`router.json` holds everything that a person may want to read, `router.safetensors` the arrays.
There is no pickle in it, and `load` checks everything: a router from someone else is safe to load.
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routewright import __version__, files
from routewright.answers.evidence import Evidence
from routewright.data import text
from routewright.errors import BadInput, BadRouter, RoutewrightError
from routewright.prediction.calibration import Calibration
from routewright.prediction.costs import CostModel
from routewright.prediction.encoders import Encoder
from routewright.prediction.novelty import Novelty
from routewright.prediction.predictors import Predictor, inputs
from routewright.prediction.stored import Arrays, load, reading, under
from routewright.registry import name_of
from routewright.router.frontier import OperatingPoint, budget_of, mixed, with_budget
from routewright.router.stored import StoredRouter
from routewright.strategies import build
from routewright.types import Array, Prediction, Query, Strategy

FORMAT = 1
EXPERT_OPTIONS = ("expert", "experts", "ladder", "then", "agree", "last")  # of strategies
LEAST_RISE = 0.002  # in quality, for which two points are mixed
TRIAL = "Which number is even?\nA. 1\nB. 2\nC. 3"  # a query on which a loaded router is tried
DESCRIPTION, ARRAYS = "router.json", "router.safetensors"


@dataclass(frozen=True)
class Router:
    """Predicts quality, cost and latency for every query, and holds its operating points.

    `signal` is the factor on the predicted *differences* between experts: 0 ranks experts alike
    for every query. `calibration` maps predicted quality to the probability that is reported.
    `seen` holds fingerprints of the prompts that it was fitted on, so that an evaluation can find
    an overlap. The last `newcomers` experts are added experts, which `signal` does not apply to.
    `verifiers` are further experts, whose answers only verify those of `experts`. `prices` replaced
    the recorded costs in the fit, as `Outcomes.at_prices` takes them.

    >>> import routewright as rw
    >>> from routewright.demo import example
    >>> router = rw.Router.load(example() / "router")
    >>> point = router.at(max_cost_fraction=0.5)  # the best point within half of sage's cost
    >>> strategy = router.strategy_at(point)  # to serve, or to replay
    >>> router.predict([rw.Query.of("What is 2 + 2?")]).quality.shape  # (queries, experts)
    (1, 3)
    """

    experts: tuple[str, ...]
    encoder: Encoder
    predictor: Predictor
    costs: CostModel
    mean: Array  # (e,) mean score per expert
    novelty: Novelty = field(default_factory=Novelty)
    signal: float = 1.0
    calibration: Calibration = field(default_factory=Calibration)
    newcomers: int = 0
    latency: Array = field(default_factory=lambda: np.empty(0))  # (e,) seconds; NaN: unknown
    evidence: Evidence | None = None  # None: decisions use the prompt only
    frontier: tuple[OperatingPoint, ...] = ()
    verifiers: tuple[str, ...] = ()
    steady: tuple[str, ...] = ()  # of the fixed mix for unfamiliar queries; none: all experts
    prices: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seen: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    card: Mapping[str, Any] = field(default_factory=dict)  # data hash, split, seed, metrics, …

    def __repr__(self) -> str:
        return (
            f"<Router over {len(self.experts)} experts ({text.listed(self.experts)}),"
            f" {len(self.frontier)} operating points>"
        )

    def __str__(self) -> str:
        """Its training data, its experts, and the range of its operating points."""
        data, facts = self.card.get("data", {}), self.card.get("experts", {})
        fitted = f", fitted on {data['rows']} queries" if "rows" in data else ""
        lines = [f"Router over {len(self.experts)} experts{fitted}"]
        rows = [("expert", "quality", "US$ per 1,000")]
        for name, mean in zip(self.experts, self.mean.tolist(), strict=True):
            cost = facts.get(name, {}).get("cost")
            rows.append((name, text.percent(mean), text.dollars(cost)))
        lines.append(text.columns(rows))
        if self.frontier:
            low, high = (f(self.frontier, key=lambda p: p.quality) for f in (min, max))
            ends = " to ".join(
                f"{text.percent(p.quality)} for ${text.dollars(p.cost)}" for p in (low, high)
            )
            lines.append(f"{len(self.frontier)} operating points, from {ends} per 1,000 queries")
        return "\n".join(lines)

    def predict(self, queries: Sequence[Query]) -> Prediction:
        """Quality, spread, cost (US$) and latency (s) per query and expert, (n, e)."""
        return self._predict(self.encoder.encode(queries), queries)

    def _predict(self, x: Array, queries: Sequence[Query]) -> Prediction:
        """The prediction for queries whose vectors (n, width) are known."""
        belief = self.predictor.predict(inputs(self.predictor, x, queries))
        trust = self.novelty.trust(x)
        difference = belief.mean - self.mean
        quality = self.mean + trust[:, None] * difference
        # Where the forecast is replaced by the mean, its difference becomes uncertainty.
        spread = np.hypot(belief.spread, (1 - trust)[:, None] * difference)
        prediction = self.believe(quality, spread, self.costs.predict(x, queries), trust)
        if self.evidence is None:
            return prediction
        return replace(prediction, context=context(x, self.encoder.blocks))

    def believe(self, quality: Array, spread: Array, cost: Array, trust: Array) -> Prediction:
        """Scales predicted differences; an expert without any score is never chosen."""
        old = len(self.experts) - self.newcomers
        scaled = quality.copy()
        scaled[..., :old] = scale_differences(quality[..., :old], self.mean[:old], self.signal)
        scaled = scaled.clip(0.0, 1.0)
        scaled[np.isnan(scaled)] = -1.0
        latency = np.full_like(scaled, np.nan)
        if self.latency.size:
            latency[...] = self.latency
        return Prediction(
            self.experts, scaled, spread, cost, latency, trust, calibrate=self.calibration
        )

    def with_latency(self, seconds: Mapping[str, float]) -> Self:
        """The same router, with latencies (s) for the experts whose latency the table lacks."""
        given = np.array([seconds.get(name, np.nan) for name in self.experts])
        own = self.latency if self.latency.size else np.full(len(self.experts), np.nan)
        return replace(self, latency=np.where(np.isfinite(own), own, given))

    @property
    def average_cost(self) -> Array:
        """Mean US$ per answer of each expert, (e,); NaN where no cost was recorded."""
        return self.costs.mean

    @property
    def steady_mean(self) -> Array:
        """Mean score of each expert that a fixed mix may ask about unfamiliar queries, (e,); NaN
        for the others."""
        if not self.steady:
            return self.mean
        return np.where(np.isin(self.experts, self.steady), self.mean, np.nan)

    @property
    def _needs_model(self) -> bool:
        """Whether a pretrained model reads the queries, which takes long."""
        return _refers_to_a_model(self.encoder) or getattr(self.predictor, "reads_text", False)

    @property
    def knows_latency(self) -> bool:
        """Whether it knows the latency of any expert."""
        return bool(np.isfinite(self.latency).any())

    def strategy(self, price: float | None = None) -> Strategy:
        """The strategy at a price of quality λ (None: 0, the best quality).

        It is a fixed mix where the frontier shows no gain of the learned choice.
        """
        return self.strategy_at(self.nearest(0.0 if price is None else price))

    def nearest(self, price: float) -> OperatingPoint:
        """The operating point whose λ is closest (as a ratio)."""
        if not self.frontier:
            raise BadRouter("the router has no operating points; fit it again")
        return min(self.frontier, key=lambda point: abs(_log(point.price) - _log(price)))

    def budgeted(self, spec: Mapping[str, Any], price: float) -> dict[str, Any]:
        """The spec of a strategy at a price of quality, with the cost of the nearest operating
        point as its budget for queries unlike the training rows, unless it names one."""
        budgets = [b for b in map(budget_of, (p.spec for p in self.frontier)) if b is not None]
        if "budget" in spec or not budgets:  # routers of earlier versions have none
            return dict(spec)
        return with_budget(spec, self.nearest(price).cost)

    def strategy_at(self, point: OperatingPoint) -> Strategy:
        return build(point.spec, self)

    def at(
        self,
        *,
        max_cost: float | None = None,
        max_cost_fraction: float | None = None,
        min_quality: float | None = None,
    ) -> OperatingPoint:
        """The best point within a cost, or the cheapest that reaches a quality.

        Costs are US$ per query or a fraction of always asking the most expensive expert. Raises
        BadInput with the limit that can be reached.
        """
        goals = [goal for goal in (max_cost, max_cost_fraction, min_quality) if goal is not None]
        if len(goals) != 1:
            raise BadInput("give exactly one of max_cost, max_cost_fraction and min_quality")
        if not self.frontier:
            raise BadRouter("the router has no operating points; fit it again")
        if min_quality is not None:
            sufficient = [p for p in self.frontier if p.quality >= min_quality]
            if not sufficient:
                best = max(p.quality for p in self.frontier)
                raise BadInput(f"quality {min_quality:g} is out of reach: at most {best:.4f}")
            return min(sufficient, key=lambda p: p.cost)
        name = "cost" if max_cost is not None else "cost_fraction"
        limit = goals[0]
        # Without a cost a point is within every limit, although 0 has no share of 0.
        within = [p for p in self.frontier if p.cost == 0 or getattr(p, name) <= limit * (1 + 1e-9)]
        if not within:
            least = min(getattr(p, name) for p in self.frontier)
            if not math.isfinite(least):
                raise BadInput(f"the router knows no costs, so no {name}: give min_quality")
            raise BadInput(f"{name} {limit:g} is out of reach: at least {least:.4g}")
        return max(within, key=lambda p: (p.quality, -p.cost))

    def within(
        self,
        *,
        max_cost: float | None = None,
        max_cost_fraction: float | None = None,
        min_quality: float | None = None,
    ) -> OperatingPoint:
        """The point that a policy with this goal serves: that of `at` or, within a cost, a mix with
        a more expensive point that uses what the best one leaves, where that buys quality.

        Raises BadInput with the limit that can be reached.
        """
        low = self.at(
            max_cost=max_cost, max_cost_fraction=max_cost_fraction, min_quality=min_quality
        )
        if min_quality is not None:
            return low
        limit = max_cost
        if max_cost_fraction is not None:
            limit = low.cost * max_cost_fraction / low.cost_fraction if low.cost else 0.0
        assert limit is not None
        mixes = [
            (a, b, (limit - a.cost) / (b.cost - a.cost))
            for a in self.frontier
            for b in self.frontier
            if a.cost < limit < b.cost and b.quality > max(a.quality, low.quality)
        ]
        if not mixes:
            return low
        best = mixed(*max(mixes, key=lambda m: (1 - m[2]) * m[0].quality + m[2] * m[1].quality))
        return best if best.quality > low.quality + LEAST_RISE else low

    def tied(self) -> OperatingPoint:
        """The point of `tie: cheapest`: the cheapest expert that the fit found to be within noise
        of the best choice, or the point at λ = 0 if there is none."""
        best, name = self.nearest(0.0), self.card.get("tie")
        if name not in self.experts:
            return best
        m = self.experts.index(name)
        cost, highest = float(self.average_cost[m]), float(np.nanmax(self.average_cost))
        quality = float(self.mean[m])
        return replace(
            best,
            cost=cost,
            cost_fraction=cost / highest if highest > 0 else float("nan"),
            quality=quality,
            quality_ci=(quality, quality),
            gain=0.0,
            gain_ci=(0.0, 0.0),
            spec={"strategy": "fixed", "expert": name},
            plan=f"always {name}, which is within noise of the best",
            shares={name: 1.0},
        )

    def fact(self, *keys: str) -> Any:
        """An entry of the card. Raises BadRouter if the router does not record it."""
        value: Any = self.card
        for key in keys:
            if not isinstance(value, Mapping) or key not in value:
                raise BadRouter(f"the router does not record its {'.'.join(keys)}: fit it again")
            value = value[key]
        return value

    # --- the folder ------------------------------------------------------------------------

    def save(self, folder: Path | str) -> None:
        """Writes the folder. A crash leaves the older router that was there, or the new one.

        Raises BadInput if the folder holds something else, or cannot be written.
        """
        from safetensors.numpy import save

        target = Path(folder)
        check_folder(target)
        from_folder = partial(_from_folder, folder=target)
        summary = {key: _with_references(part, from_folder) for key, part in self.summary().items()}
        described = json.dumps(summary, indent=1, ensure_ascii=False)
        arrays = save({k: np.ascontiguousarray(v) for k, v in self._arrays().items()})
        with files.replacing(target, folder=True) as partial_folder:
            files.write(partial_folder / ARRAYS, arrays)
            files.write(partial_folder / DESCRIPTION, described + "\n")

    def describe(self) -> dict[str, Any]:
        """The content of router.json."""
        return {
            "format": FORMAT,
            "routewright": __version__,
            "experts": list(self.experts),
            "encoder": {
                "name": name_of("encoders", self.encoder),
                "options": self.encoder.options(),
            },
            "predictor": {
                "name": name_of("predictors", self.predictor),
                "options": self.predictor.options(),
            },
            "costs": self.costs.options(),
            "novelty": self.novelty.options(),
            "evidence": None if self.evidence is None else self.evidence.options(),
            "signal": self.signal,
            "newcomers": self.newcomers,
            **({"verifiers": list(self.verifiers)} if self.verifiers else {}),
            **({"steady": list(self.steady)} if self.steady else {}),
            **({"prices": dict(self.prices)} if self.prices else {}),
            "card": dict(self.card),
            "frontier": [point.to_json() for point in self.frontier],
        }

    def summary(self) -> dict[str, Any]:
        """The content of router.json with None for unknown numbers, as JSON has no NaN."""
        content: dict[str, Any] = finite(self.describe())
        return content

    def _arrays(self) -> dict[str, Any]:
        parts = {
            "encoder": self.encoder.arrays(),
            "predictor": self.predictor.arrays(),
            "costs": self.costs.arrays(),
            "novelty": self.novelty.arrays(),
            "evidence": {} if self.evidence is None else self.evidence.arrays(),
            "calibration": {"slope": self.calibration.slope, "offset": self.calibration.offset},
            "router": {"mean": self.mean, "latency": self.latency, "seen": self.seen},
        }
        return {f"{part}/{k}": v for part, arrays in parts.items() for k, v in arrays.items()}

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Reads a folder. Raises BadRouter if it is missing, no router, damaged or too new.

        Everything in it is checked, so that a router of a stranger works or is refused here.
        """
        path = Path(folder)
        described, arrays = _read(path)
        if described.get("format") != FORMAT:
            raise BadRouter(
                f"'{path}' has router format {str(described.get('format'))[:20]}; this version of"
                f" routewright reads format {FORMAT}: fit it again, or upgrade"
            )
        described = _with_references(described, partial(_from_working_directory, folder=path))
        try:
            router = cls._of(StoredRouter.of(described), arrays)
            router._check()
        except RoutewrightError as error:
            raise BadRouter(f"'{path}' cannot be loaded: {error}") from error
        return router

    @classmethod
    def _of(cls, stored: StoredRouter, arrays: Mapping[str, Any]) -> Self:
        """The router of a description and its arrays. Raises BadRouter."""
        count = len(stored.experts)
        own = Arrays("the router", under(arrays, "router/"))
        mean = own.take("mean", count, unknown=True, least=0.0, most=1.0)
        latency = own.take("latency", "known latencies", unknown=True, least=0.0)
        if len(latency) not in (0, count):
            raise BadRouter(f"the router has {len(latency)} latencies of {count} experts")
        with reading("the router"):
            evidence = None
            if stored.evidence is not None:
                evidence = Evidence.load(stored.evidence, under(arrays, "evidence/"), count)
            return cls(
                experts=stored.experts,
                encoder=load("encoders", stored.encoder, under(arrays, "encoder/")),
                predictor=load("predictors", stored.predictor, under(arrays, "predictor/")),
                costs=CostModel.load(stored.costs, under(arrays, "costs/")),
                mean=mean,
                novelty=Novelty.load(stored.novelty, under(arrays, "novelty/")),
                evidence=evidence,
                signal=stored.signal,
                calibration=Calibration.load(under(arrays, "calibration/"), count),
                newcomers=stored.newcomers,
                latency=latency,
                seen=own.take("seen", "prompts", kind="u", least=0, most=np.inf),
                frontier=tuple(point.point() for point in stored.frontier),
                verifiers=stored.verifiers,
                steady=stored.steady,
                prices=stored.prices,
                card=stored.card,
            )

    def _check(self) -> None:
        """Raises BadRouter unless the parts fit together: they predict for a query, weigh an answer
        on every rung, and build the strategy of every operating point."""
        width = max((block.stop for block in self.encoder.blocks.values()), default=0)
        queries = [Query.of(TRIAL)]
        if not set(self.steady) <= set(self.experts):
            raise BadRouter("a steady expert is none of its experts")
        with reading("the router"), np.errstate(all="ignore"):
            for point in self.frontier:
                self._check_experts(point.spec)
                self.strategy_at(point)
            x = np.zeros((1, width))
            if not _refers_to_a_model(self.encoder):
                x = self.encoder.encode(queries)
            if x.shape != (1, width):
                raise BadRouter(f"its encoder gives vectors of {x.shape[1]}, not {width} numbers")
            if getattr(self.predictor, "reads_text", False):
                return  # a language model, which is loaded when it is first used
            prediction = self._predict(x, queries)
            tables = (prediction.quality, prediction.spread, prediction.cost, prediction.chance)
            if any(table.shape != (1, len(self.experts)) for table in tables):
                raise BadRouter(f"its predictor does not predict for {len(self.experts)} experts")
            if self.evidence is not None:
                self.evidence.check(prediction, queries)

    def _check_experts(self, spec: Mapping[str, Any]) -> None:
        """Raises BadRouter if a spec names an expert that the router was not fitted on."""
        members = {*self.experts, *self.verifiers}
        for name in _experts_in(spec):
            if name not in members:
                raise BadRouter(f"an operating point asks '{name}', which is no expert of it")


def scale_differences(quality: Array, mean: Array, signal: float) -> Array:
    """Forecasts whose differences between experts are shrunk towards those of the means.

    The common part of all experts (how hard the query is) stays: only the differences decide, and
    an argmax over noisy differences suffers from the winner's curse.
    """
    difference = quality - mean
    has_mean = np.isfinite(mean)
    if not has_mean.all():
        level = difference[..., has_mean].mean(axis=-1, keepdims=True) if has_mean.any() else 0.0
    else:
        level = difference.mean(axis=-1, keepdims=True)
    return np.asarray(mean + level + signal * (difference - level))


def _experts_in(spec: Any, option: str = "") -> Iterator[str]:
    """The experts that a strategy's spec names."""
    if isinstance(spec, str) and option in EXPERT_OPTIONS:
        yield spec
    elif isinstance(spec, Mapping):
        for key, value in spec.items():
            yield from _experts_in(value, key)
    elif isinstance(spec, list | tuple):
        for item in spec:
            yield from _experts_in(item, option)


def _refers_to_a_model(encoder: Any) -> bool:
    """Whether an encoder uses a pretrained model, which is loaded when it is first used."""
    return hasattr(encoder, "source") or any(map(_refers_to_a_model, getattr(encoder, "parts", ())))


def context(x: Array, blocks: Mapping[str, slice]) -> Array:
    """The columns of vectors (n, width) that are facts and no embeddings: domain, form."""
    facts = [x[:, blocks[name]] for name in ("domain", "surface") if name in blocks]
    return np.hstack([np.empty((len(x), 0)), *facts])


def _with_references(described: Any, move: Callable[[str], str]) -> Any:
    """The description with `move` applied to every model that it refers to (`source`, `base`)."""
    if isinstance(described, list):
        return [_with_references(item, move) for item in described]
    if not isinstance(described, Mapping):
        return described
    return {
        key: move(value)
        if key in ("source", "base") and isinstance(value, str) and value
        else _with_references(value, move)
        for key, value in described.items()
    }


def _from_folder(source: str, folder: Path) -> str:
    """The path of a local model relative to the router's folder, so that both can be moved
    together; names on a hub and absolute paths are unchanged."""
    local = not os.path.isabs(source) and Path(source).exists()
    return os.path.relpath(source, folder) if local else source


def _from_working_directory(source: str, folder: Path) -> str:
    local = not os.path.isabs(source) and (folder / source).exists()
    return os.path.relpath(folder / source) if local else source


def check_folder(folder: Path) -> None:
    """Raises BadInput if a router may not be saved there, because something else is there."""
    with suppress(FileNotFoundError):  # another process may be replacing it
        if not stat.S_ISDIR(folder.stat().st_mode):
            raise BadInput(f"'{folder}' is a file: name a folder for the router")
    if _is_foreign(folder):
        raise BadInput(f"'{folder}' exists and is not a router: choose another folder")


def _is_foreign(folder: Path) -> bool:
    """Whether the folder holds something, but no router. Other processes may replace it meanwhile,
    and delete the files of the old one: only a folder that stayed where it was is judged."""
    with suppress(FileNotFoundError):
        while True:
            before, names, after = folder.stat(), os.listdir(folder), folder.stat()
            if not names or DESCRIPTION in names:
                return False
            if (before.st_ino, before.st_ctime_ns) == (after.st_ino, after.st_ctime_ns):
                return True
    return False


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The description and the arrays of a router, both of the same save."""
    try:
        most = {DESCRIPTION: files.LONGEST, ARRAYS: files.memory()}
        content, tensors = files.read_folder(path, most)
        described = files.parse_json(content, f"'{path / DESCRIPTION}'")
        arrays = files.parse_arrays(tensors, path / ARRAYS)
    except (FileNotFoundError, NotADirectoryError) as error:
        if Path(str(error.filename)).name == ARRAYS:
            raise BadRouter(
                f"'{path}' is damaged: it has no {ARRAYS}; fit the router again"
            ) from error
        what = f"it has no {DESCRIPTION}"
        if path.is_file():
            what = (
                "a router is the folder that `fit --out` writes; check the order of the arguments"
            )
        raise BadRouter(f"'{path}' is not a router: {what}") from error
    except OSError as error:
        raise BadRouter(f"'{path}' cannot be read: {error.strerror}") from error
    except BadInput as error:
        raise BadRouter(str(error)) from error
    if not isinstance(described, dict):
        raise BadRouter(f"'{path / DESCRIPTION}' does not describe a router")
    return described, arrays


def finite(value: Any) -> Any:
    """The value with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return value


def _log(price: float) -> float:
    return math.log10(max(price, 1e-9))
