"""`routewright evaluate --html`: one page that says whether a router pays, and shows why.

Everything on it is measured on the rows that were evaluated; where a difference is not proven,
the page says so in its first sentence. The page needs no network and no script.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from routewright import __version__, metrics, plots, policies
from routewright.evaluation import FRACTIONS, Evaluation, curve_replicates
from routewright.frontier import known_costs
from routewright.outcomes import ALL, Fingerprints, fingerprints
from routewright.strategies import one_shot
from routewright.types import Array, Indices

HALF = 0.5
SMALL_DOMAIN = 30  # rows; below, a domain's numbers are shown grey
DOMAINS_SHOWN = 20
MISTAKES_SHOWN = 15
EXCERPT = 120  # characters of a prompt
BINS = 10
BIN_ROWS = 20  # fewer bins rather than fewer rows in each
UNKNOWN = -1  # the choice of a strategy that asks more than one expert


def render(
    evaluation: Evaluation,
    figures: Mapping[str, Any],
    command: str | None = None,
    *,
    seen: Fingerprints | None = None,
) -> str:
    """The report as one HTML file; `figures` is what `evaluate --json` writes.

    `command` is printed as the way to make it again. `seen` holds the fingerprints of the
    prompts that the router was fitted on, for the overlap audit.
    """
    study = Study(evaluation, figures)
    page: str = _template().render(
        study=study,
        headline=headline(study),
        audit=audit(evaluation, seen),
        fractions=fraction_rows(study),
        picture=_picture(study),
        shares_picture=_shares_picture(study),
        experts=expert_rows(study),
        domains=domain_rows(study),
        reliability=_reliability_picture(study),
        mistakes=mistakes(study),
        card=evaluation.router.card,
        command=command,
        version=__version__,
        small_domain=SMALL_DOMAIN,
        domains_shown=DOMAINS_SHOWN,
    )
    return page


@dataclass(frozen=True)
class Study:
    """An evaluation, its figures, and what several sections need of both.

    Shapes: k operating points, n queries, e experts, b bootstrap replicates; the first
    replicate is the sample itself.
    """

    evaluation: Evaluation
    figures: Mapping[str, Any]

    @property
    def priced(self) -> bool:
        return plots.priced(self.figures)

    @property
    def experts(self) -> tuple[str, ...]:
        return self.evaluation.router.experts

    @cached_property
    def best(self) -> int:
        """The operating point with the lowest λ."""
        return int(np.argmin([point.price for point in self.evaluation.points]))

    @cached_property
    def best_figures(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.figures["curve"][self.best]
        return found

    @cached_property
    def dearest(self) -> str:
        """The expert whose cost the fractions refer to; of several, the best."""
        facts = self.figures["experts"]
        return max(self.experts, key=lambda m: (plots.known(facts[m]["cost"]), facts[m]["quality"]))

    @cached_property
    def choices(self) -> Indices:
        """The expert asked, (k, n); UNKNOWN in rows of strategies that may ask several."""
        return np.array([self._choose(k) for k in range(len(self.evaluation.points))])

    def _choose(self, k: int) -> Indices:
        e = self.evaluation
        strategy = e.router.strategy_at(e.points[k])
        if not one_shot(strategy):
            return np.full(len(e.outcomes), UNKNOWN)
        return np.asarray(strategy.choose(e.outcomes.queries, e.prediction))

    @cached_property
    def shares(self) -> Array:
        """How often each expert is asked, (k, e); zero throughout where that is unknown."""
        return np.stack([(self.choices == m).mean(axis=1) for m in range(len(self.experts))], 1)

    @cached_property
    def mean_costs(self) -> Array:
        return metrics.mean(self.evaluation.costs.T)

    @cached_property
    def half(self) -> tuple[tuple[int, float], ...]:
        """The operating points, with weights, whose mix costs half of the dearest expert."""
        facts = self.figures["experts"][self.dearest]
        return _neighbours(self, HALF * facts["cost"]) if self.priced else ((self.best, 1.0),)

    @property
    def where(self) -> str:
        """`half` in words."""
        if not self.priced:
            return "at λ = 0"
        least, most = _span(self)
        if least > HALF:
            return "at its cheapest"
        return "at its dearest" if most < HALF else "at half cost"

    @cached_property
    def near_half(self) -> int:
        return max(self.half, key=lambda part: part[1])[0]

    @cached_property
    def weights(self) -> Array:
        e = self.evaluation
        return np.vstack([np.ones(len(e.outcomes)), e.weights])

    @cached_property
    def control(self) -> tuple[Array, Array] | None:
        """Costs (US$) and qualities of the shuffled control, each (b, k); None if unknown."""
        if (self.choices == UNKNOWN).any():
            return None
        outcomes = self.evaluation.outcomes
        tables = (known_costs(outcomes.cost), outcomes.score)
        costs, qualities = (metrics.shuffled(t, self.choices, self.weights) for t in tables)
        known = np.isfinite(costs[0]).all() and np.isfinite(qualities[0]).all()
        return (costs, qualities) if known else None


def _neighbours(study: Study, cost: float) -> tuple[tuple[int, float], ...]:
    """The points on both sides of a cost with their weights, as `metrics.quality_at` mixes."""
    costs, qualities = study.mean_costs, metrics.mean(study.evaluation.scores.T)
    order = np.lexsort((qualities, costs))
    right = int(np.searchsorted(costs[order], cost))
    if right == 0 or right == len(order):
        return ((int(order[min(right, len(order) - 1)]), 1.0),)
    low, high = int(order[right - 1]), int(order[right])
    share = float((cost - costs[low]) / (costs[high] - costs[low]))
    return ((low, 1 - share), (high, share))


# --- the first sentence --------------------------------------------------------------------


class Headline(NamedTuple):
    """What the router is worth, in words; `verdict` is gain, unproven or loss."""

    verdict: str
    lead: str
    gain: str
    also: tuple[str, ...]


def headline(study: Study) -> Headline:
    return _priced_headline(study) if study.priced else _unpriced_headline(study)


def _priced_headline(study: Study) -> Headline:
    least, most = _span(study)
    always = f"the cost of always asking {study.dearest}"
    if least > HALF:
        at = _at_point(study, int(np.argmin(study.mean_costs)))
        lead = f"At {percent(least)} of {always}, the least it can spend"
    elif most < HALF:
        at = _at_point(study, int(np.argmax(study.mean_costs)))
        lead = f"At {percent(most)} of {always}, the most it can spend"
    else:
        at = study.figures["at_cost_fraction"][f"{HALF:g}"]
        lead = f"At half {always}"
    lead += f", this router reaches {points(at['quality'])} {between(at['quality_ci'])}"
    verdict = _verdict(at["gain_ci"])
    gain = _gain(verdict, at["gain_over_zero_router"], at["gain_ci"])
    if _fixed(study):
        gain += "; the fit found none either, so a fixed mix is what it serves here"
    return Headline(verdict, lead, gain + ".", _also(study))


def _at_point(study: Study, k: int) -> dict[str, Any]:
    """What `at_cost_fraction` holds, at an operating point's own cost."""
    e = study.evaluation
    reached, spent = (metrics.mean(t[[k]].T, study.weights)[:, 0] for t in (e.scores, e.costs))
    quality = metrics.mean(e.outcomes.score, study.weights)
    price = metrics.mean(known_costs(e.outcomes.cost), study.weights)
    zero = [
        float(policies.hull_quality(policies.zero_router(q, c), at))
        for q, c, at in zip(quality, price, spent, strict=True)
    ]
    gain = reached - np.array(zero)
    return {
        "quality": float(reached[0]),
        "quality_ci": metrics.interval(reached[1:]),
        "gain_over_zero_router": float(gain[0]),
        "gain_ci": metrics.interval(gain[1:]),
    }


def _fixed(study: Study) -> bool:
    """Whether fixed experts are what the router itself serves there."""
    return all(study.evaluation.points[k].strategy == "fixed" for k, _ in study.half)


def _gain(verdict: str, gain: float, interval: Sequence[float]) -> str:
    over = "mixing fixed experts at the same cost"
    if verdict == "gain":
        return f"{signed(gain)} points {between(interval, sign=True)} over {over}"
    if verdict == "loss":
        return f"{points(-gain)} points worse {between(interval, sign=True)} than {over}"
    return f"no proven gain over {over}: {signed(gain)} points {between(interval, sign=True)}"


def _unpriced_headline(study: Study) -> Headline:
    best = study.best_figures
    gain, interval = _gain_over_best_single(study)
    verdict = _verdict(interval)
    text = _gain(verdict, gain, interval).replace(
        "mixing fixed experts at the same cost", "always asking the best single expert"
    )
    if _fixed(study):
        text += "; the fit found none either, so it asks one expert always"
    free = any(expert["cost"] == 0 for expert in study.figures["experts"].values())
    why = "Every expert is free" if free else "No costs are known"
    lead = (
        f"{why}, so only quality is judged: this router reaches"
        f" {points(best['quality'])} {between(best['quality_ci'])}"
    )
    return Headline(verdict, lead, text + ".", (_best_single(study),))


def _gain_over_best_single(study: Study) -> tuple[float, tuple[float, float]]:
    """Paired; which expert is best is found anew in every replicate."""
    e = study.evaluation
    router = metrics.mean(e.scores[[study.best]].T, study.weights)[:, 0]
    gain = router - np.nanmax(metrics.mean(e.outcomes.score, study.weights), axis=1)
    return float(gain[0]), metrics.interval(gain[1:])


def _also(study: Study) -> tuple[str, ...]:
    best = study.best_figures
    whole = (
        f"Asked for the best whatever it costs, the router reaches {points(best['quality'])}"
        f" {between(best['quality_ci'])} at {percent(best['cost_fraction'])} of the cost of"
        f" {study.dearest}."
    )
    return (_best_single(study), whole)


def _best_single(study: Study) -> str:
    best, oracle = (study.figures["references"][key] for key in ("best_single", "oracle"))
    return (
        f"The best single expert, {best['name']}, reaches {points(best['quality'])};"
        f" an oracle that knows every score would reach {points(oracle['quality'])}."
    )


def _verdict(interval: Sequence[float]) -> str:
    low, high = interval
    if low > 0:
        return "gain"
    return "loss" if high < 0 else "unproven"


def _span(study: Study) -> tuple[float, float]:
    """The least and the most that the router spends, relative to the dearest expert."""
    fractions = [point["cost_fraction"] for point in study.figures["curve"]]
    return min(fractions), max(fractions)


# --- the tables ----------------------------------------------------------------------------


class FractionRow(NamedTuple):
    fraction: float
    cost: float  # US$ per query
    reachable: bool
    quality: float
    quality_ci: Sequence[float]
    gain: float
    gain_ci: Sequence[float]
    verdict: str
    control: float | None
    over_control: float | None
    over_control_ci: Sequence[float] | None


def fraction_rows(study: Study) -> list[FractionRow]:
    """Quality, gain and the shuffled control at the fixed fractions of the dearest cost."""
    if not study.priced:
        return []
    least, _ = _span(study)
    dearest = study.figures["experts"][study.dearest]["cost"]
    control = _control_at_fractions(study)
    rows = []
    for f, fraction in enumerate(FRACTIONS):
        at = study.figures["at_cost_fraction"][f"{fraction:g}"]
        rows.append(
            FractionRow(
                fraction=fraction,
                cost=fraction * dearest,
                reachable=fraction >= least - 1e-6,
                quality=at["quality"],
                quality_ci=at["quality_ci"],
                gain=at["gain_over_zero_router"],
                gain_ci=at["gain_ci"],
                verdict=_verdict(at["gain_ci"]) if at["gain_ci"] else "",
                control=control[0][0, f] if control else None,
                over_control=control[1][0, f] if control else None,
                over_control_ci=metrics.interval(control[1][1:, f]) if control else None,
            )
        )
    return rows


def _control_at_fractions(study: Study) -> tuple[Array, Array] | None:
    """Quality of the shuffled control and what the router has over it, each (b, fractions)."""
    if study.control is None:
        return None
    fractions = np.array(FRACTIONS)
    reached, _ = curve_replicates(study.evaluation, study.weights, fractions)
    price = metrics.mean(known_costs(study.evaluation.outcomes.cost), study.weights)
    dealt = np.empty_like(reached)
    for b, (costs, qualities) in enumerate(zip(*study.control, strict=True)):
        order = np.lexsort((qualities, costs))
        dealt[b] = np.interp(fractions * np.nanmax(price[b]), costs[order], qualities[order])
    return dealt, reached - dealt


class ExpertRow(NamedTuple):
    name: str
    colour: str
    quality: float
    cost: float | None
    half: float | None  # share of queries at half the cost of the dearest
    whole: float | None  # at λ = 0
    auc: float | None
    brier: float
    ece: float


def expert_rows(study: Study) -> list[ExpertRow]:
    """Every expert, cheapest first as in the picture of shares."""
    e, known = study.evaluation, not (study.choices == UNKNOWN).any()
    colours = dict(zip(_by_cost(study), _colours(study), strict=True))
    rows = []
    for m in _by_cost(study):
        name = study.experts[m]
        facts, belief = study.figures["experts"][name], study.figures["predictor"][name]
        rows.append(
            ExpertRow(
                name=name,
                colour=colours[m],
                quality=facts["quality"],
                cost=facts["cost"],
                half=_at_half(study, study.shares[:, m]) if known and study.priced else None,
                whole=float(study.shares[study.best, m]) if known else None,
                auc=belief["auc"],
                brier=metrics.brier(e.prediction.chance[:, m], e.outcomes.score[:, m]),
                ece=belief["ece"],
            )
        )
    return rows


def _at_half(study: Study, per_point: Array) -> float:
    return float(sum(weight * per_point[k] for k, weight in study.half))


def _by_cost(study: Study) -> list[int]:
    facts = study.figures["experts"]
    return sorted(
        range(len(study.experts)),
        key=lambda m: (
            plots.known(facts[study.experts[m]]["cost"]),
            plots.known(facts[study.experts[m]]["quality"]),
        ),
    )


def _colours(study: Study) -> list[str]:
    """By cost, as `_by_cost` orders the experts."""
    return plots.palette(study.shares.max(axis=0)[_by_cost(study)].tolist())


class DomainRow(NamedTuple):
    name: str
    n: int
    router: float
    half: float | None
    best: str
    best_quality: float | None
    difference: float | None
    small: bool


def domain_rows(study: Study) -> list[DomainRow]:
    """The largest domains first; the best expert is the one that looks best in hindsight."""
    e = study.evaluation
    domains = np.array([domain or "" for domain in e.outcomes.domains])
    facts_of = study.figures["experts"]
    rows = []
    for name, facts in study.figures["domains"].items():
        per_point = metrics.mean(e.scores[:, domains == name].T)
        known = {m: q for m, q in facts["experts"].items() if q is not None}
        best = max(known, key=lambda m: (known[m], -plots.known(facts_of[m]["cost"])), default="")
        rows.append(
            DomainRow(
                name=name,
                n=facts["n"],
                router=facts["router"],
                half=_at_half(study, per_point) if study.priced else None,
                best=best,
                best_quality=known.get(best),
                difference=facts["router"] - known[best] if known else None,
                small=facts["n"] < SMALL_DOMAIN,
            )
        )
    return sorted(rows, key=lambda row: (-row.n, row.name))


class Mistake(NamedTuple):
    id: str
    domain: str | None
    text: str
    asked: str | None
    score: float
    cost: float | None
    better: str
    better_score: float
    better_cost: float | None


def mistakes(study: Study) -> list[Mistake]:
    """The queries with the largest regret at half cost: points lost, then dollars wasted."""
    e, k = study.evaluation, study.near_half
    score, cost = e.outcomes.score, known_costs(e.outcomes.cost)
    better = metrics.oracle(score, cost)
    lost = policies.take(score, better) - e.scores[k]
    wasted = e.costs[k] - policies.take(cost, better)
    order = np.lexsort((-np.nan_to_num(wasted), -np.nan_to_num(lost, nan=-1.0)))
    worst = [int(i) for i in order[:MISTAKES_SHOWN] if lost[i] > 0]
    return [_mistake(study, i, int(better[i])) for i in worst]


def _mistake(study: Study, i: int, better: int) -> Mistake:
    e, k = study.evaluation, study.near_half
    query, choice = e.outcomes.queries[i], int(study.choices[k, i])
    text = " ".join(query.text.split())
    return Mistake(
        id=query.id,
        domain=query.domain,
        text=text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…",
        asked=None if choice == UNKNOWN else study.experts[choice],
        score=float(e.scores[k, i]),
        cost=_known(e.costs[k, i]) if study.priced else None,
        better=study.experts[better],
        better_score=float(e.outcomes.score[i, better]),
        better_cost=_known(e.outcomes.cost[i, better]) if study.priced else None,
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


# --- the pictures --------------------------------------------------------------------------


def _picture(study: Study) -> str:
    control = study.control
    if study.priced:
        line = None if control is None else np.array([control[0][0], control[1][0]])
        return plots.cost_quality(study.figures, line)
    return plots.quality_bars(
        study.figures, None if control is None else float(control[1][0, study.best])
    )


def _shares_picture(study: Study) -> str | None:
    """None where there is no curve to show shares along."""
    several = len(np.unique(study.mean_costs)) > 1
    if not (study.priced and several) or (study.choices == UNKNOWN).any():
        return None
    return plots.shares(study.mean_costs, study.shares[:, _by_cost(study)], _colours(study))


def _reliability_picture(study: Study) -> str:
    """Of the experts that are asked most, if there are more than fit."""
    asked = study.shares.sum(axis=0)
    kept = sorted(range(len(study.experts)), key=lambda m: -asked[m])[: plots.PANELS]
    return plots.reliability([_panel(study, m) for m in sorted(kept, key=_by_cost(study).index)])


def _panel(study: Study, m: int) -> plots.Panel:
    name = study.experts[m]
    forecast = study.evaluation.prediction.chance[:, m]
    score = study.evaluation.outcomes.score[:, m]
    belief = study.figures["predictor"][name]
    return plots.Panel(
        plots.short(name, study.experts, 26),
        f"AUC {rate(belief['auc'])}   Brier {rate(metrics.brier(forecast, score))}"
        f"   ECE {rate(belief['ece'])}",
        *_bins(forecast, score),
    )


def _bins(forecast: Array, score: Array) -> tuple[Array, Array, Array]:
    """Mean forecast, mean score and the reach of its interval in equally filled bins."""
    known = np.isfinite(score) & np.isfinite(forecast)
    f, s = forecast[known], score[known]
    bins = int(np.clip(len(f) // BIN_ROWS, 1, BINS))
    parts = [part for part in np.array_split(np.argsort(f, kind="stable"), bins) if len(part)]
    forecasts = np.array([f[part].mean() for part in parts])
    scores = np.array([s[part].mean() for part in parts])
    return forecasts, scores, _wilson(scores, np.array([len(part) for part in parts]))


def _wilson(share: Array, n: NDArray[np.int_], z: float = 1.96) -> Array:
    """How far the 95 % interval reaches down and up from each share, (2, bins).

    Wilson (1927), which unlike the normal interval has a width where all scores agree.
    """
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    width = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    reach: Array = np.clip(np.array([share - (middle - width), middle + width - share]), 0.0, None)
    return reach


# --- was it fair? --------------------------------------------------------------------------


class Audit(NamedTuple):
    """Whether the rows of the evaluation were part of the fit; `level` is good, open or bad."""

    level: str
    text: str


def audit(e: Evaluation, seen: Fingerprints | None = None) -> Audit:
    data = e.router.card.get("data", {})
    if data.get("sha256") == e.outcomes.digest:
        return Audit("bad", "These are the very rows that the router was fitted on.")
    if seen is not None:
        return _counted(int(np.isin(fingerprints(e.outcomes.queries), seen).sum()), len(e.outcomes))
    if not data:
        return Audit("open", "The router does not say what it was fitted on.")
    splits = {data["split"], e.outcomes.split}
    same_file = bool(_names(data["sources"]) & _names(e.outcomes.sources))
    if same_file and (len(splits) == 1 or ALL in splits):
        return Audit(
            "bad",
            f"The router was fitted on split '{data['split']}' of a table of the same name, and"
            f" this is split '{e.outcomes.split}' of it: rows of the fit are very likely among"
            " those evaluated.",
        )
    where = "another split of a table of the same name" if same_file else "tables of other names"
    return Audit(
        "open",
        f"It was fitted on {where}. The router holds no fingerprints of its prompts, so a prompt"
        " that stands in both cannot be ruled out; fit it again to have this checked.",
    )


def _counted(shared: int, n: int) -> Audit:
    if not shared:
        return Audit("good", f"None of the {n} prompts was among those of the fit.")
    return Audit(
        "bad" if shared > n / 100 else "open",
        f"{shared} of the {n} prompts ({percent(shared / n, 1)}) were also in the fit.",
    )


def _names(paths: Iterable[str]) -> set[str]:
    return {Path(path).name for path in paths}


# --- numbers in words ----------------------------------------------------------------------


def points(quality: float | None) -> str:
    """Quality 0..1 as points of 100."""
    return "–" if quality is None or not np.isfinite(quality) else f"{100 * quality:.1f}"


def signed(difference: float | None) -> str:
    if difference is None or not np.isfinite(difference):
        return "–"
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def between(interval: Sequence[float], sign: bool = False) -> str:
    show = signed if sign else points
    return f"({show(interval[0])} to {show(interval[1])})"


def percent(share: float | None, digits: int = 0) -> str:
    if share is None or not np.isfinite(share):
        return "–"
    if 0 < share < 0.5 * 10 ** -(2 + digits):
        return f"<{10**-digits:g} %"
    return f"{100 * share:.{digits}f} %"


def rate(number: float | None) -> str:
    return "–" if number is None or not np.isfinite(number) else f"{number:.2f}"


def dollars(cost: float | None) -> str:
    """US$ per query as US$ per 1,000 queries."""
    if cost is None or not np.isfinite(cost):
        return "–"
    if abs(cost) >= 0.1:
        return f"{1000 * cost:,.0f}"
    return np.format_float_positional(1000 * cost, precision=3, fractional=False, trim="-")


def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    for show in (points, signed, between, percent, rate, dollars):
        environment.filters[show.__name__] = show
    page = resources.files("routewright").joinpath("report_template.html")
    return environment.from_string(page.read_text(encoding="utf-8"))
