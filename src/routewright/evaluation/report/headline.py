"""Writes the head of a report: the gain of what is served, in large, and what it costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from routewright import metrics
from routewright.config import PolicyConfig
from routewright.data import text
from routewright.data.outcomes import Outcomes
from routewright.evaluation.compare import decisive, in_words
from routewright.evaluation.figures import HALF, of_other_topics, questions, served, tie_in_words
from routewright.evaluation.policies import Judged, goal_of
from routewright.evaluation.report.study import Study
from routewright.evaluation.report.words import (
    between,
    dollars,
    percent,
    points,
    signed,
    verdict_of,
)

FIXED_MIX = "mixing fixed experts at the same cost"


class Tile(NamedTuple):
    """A figure below the headline; `tone` colours its note: good, open, bad or empty."""

    label: str
    value: str
    note: str
    tone: str = ""


class Headline(NamedTuple):
    """The head of a report. `verdict` is gain, unproven, loss, or empty where no choice is learned.
    `number` is set in large type, and `gain` says what it is."""

    verdict: str
    number: str
    gain: str
    lead: str
    tiles: tuple[Tile, ...]
    also: tuple[str, ...]


# --- a router --------------------------------------------------------------------------------


def headline(study: Study) -> Headline:
    """The head of a report about a router: what a policy with `max_cost_fraction: 0.5` serves."""
    return _priced_headline(study) if study.priced else _unpriced_headline(study)


def _priced_headline(study: Study) -> Headline:
    e = study.evaluation
    facts, policy = served(study.served), served_policy(study)
    always = f"the cost of always asking {study.most_expensive}"
    reaches = f"reaches {points(facts['quality'])} %"
    share = percent(facts["cost_fraction"])
    if e.at_half is None:
        lead = f"At {share} of {always}, the least it can spend, this router {reaches}."
    elif study.span[1] < HALF:
        lead = f"At {share} of {always}, the most it can spend, this router {reaches}."
    else:
        lead = f"A policy with max_cost_fraction {HALF:g} {reaches} at {share} of {always}."
    return Headline(
        verdict_of(facts["gain_ci"]),
        signed(facts["gain_over_zero_router"]),
        _gain(facts["gain_ci"], FIXED_MIX),
        lead,
        tiles(facts, policy, study.most_expensive, e.outcomes),
        (
            *_fixed(study),
            best_single(study.figures),
            _without_limit(study),
            *filter(None, [tie_in_words(study.figures.get("tie"))]),
            *of_other_topics(e),
        ),
    )


def served_policy(study: Study) -> PolicyConfig:
    """The policy that the head of a report about a router speaks of."""
    strategy = study.served.points[0].strategy
    if study.evaluation.at_half is None:
        return PolicyConfig(strategy=strategy)
    return PolicyConfig(strategy=strategy, max_cost_fraction=HALF)


def _gain(interval: Sequence[float], over: str) -> str:
    claim = {"gain": " over", "loss": ", worse than", "unproven": ": no proven gain over"}
    return f"percentage points {between(interval, sign=True)}{claim[verdict_of(interval)]} {over}"


def _fixed(study: Study) -> tuple[str, ...]:
    (point,) = study.served.points
    if point.strategy != "fixed":
        return ()
    plan = point.plan or "fixed experts"
    return (f"The fit found no gain here either, so the router learns no choice: {plan}.",)


def _without_limit(study: Study) -> str:
    best = study.best_figures
    return (
        f"With no limit on costs, the router reaches {points(best['quality'])} %"
        f" {between(best['quality_ci'])} at {percent(best['cost_fraction'])} of the cost of"
        f" {study.most_expensive}."
    )


def _unpriced_headline(study: Study) -> Headline:
    best = study.best_figures
    gain, interval = _gain_over_best_single(study)
    free = any(expert["cost"] == 0 for expert in study.figures["experts"].values())
    reason = "Every expert is free" if free else "No costs are known"
    lead = f"{reason}, so only quality is judged: this router reaches {points(best['quality'])} %."
    return Headline(
        verdict_of(interval),
        signed(gain),
        _gain(interval, "always asking the best single expert"),
        lead,
        (_quality(best), _rows(study.evaluation.outcomes)),
        (*_fixed(study), best_single(study.figures)),
    )


def _gain_over_best_single(study: Study) -> tuple[float, tuple[float, float]]:
    """The gain and its interval, paired; each replicate has its own best single expert."""
    e = study.evaluation
    router = metrics.mean(e.scores[[study.best]].T, study.weights)[:, 0]
    gain = router - np.nanmax(metrics.mean(e.outcomes.score, study.weights), axis=1)
    return float(gain[0]), metrics.interval(gain[1:])


def best_single(figures: Mapping[str, Any]) -> str:
    best, oracle = (figures["references"][key] for key in ("best_single", "oracle"))
    ideal = f"would reach {points(oracle['quality'])} %"
    if oracle["quality"] is None:
        ideal = "is unknown, because scores are missing"
    return (
        f"The best single expert, {best['name']}, reaches {points(best['quality'])} %;"
        f" an oracle that knows every score in advance {ideal}."
    )


# --- a policy of a config --------------------------------------------------------------------


def of_policy(one: Judged, figures: Mapping[str, Any], most_expensive: str) -> Headline:
    """The head of a report about a config: the policy that is served."""
    facts = one.facts
    reaches = f"Policy '{one.name}' reaches {points(facts['quality'])} %"
    share = facts["cost_fraction"]
    lead = f"{reaches} at {percent(share)} of the cost of always asking {most_expensive}."
    interval = facts["gain_ci"]
    shown = tiles(facts, one.config, most_expensive, one.evaluation.outcomes)
    also = (best_single(figures),)
    if interval is None:
        lead = f"{reaches}; no costs are known, so only quality is judged."
    if interval is None or not one.learned:
        number = f"{points(facts['quality'])} %"
        meaning = f"{between(facts['quality_ci'])} is the quality of policy '{one.name}'"
        meaning += "" if one.learned else ", which learns no choice"
        return Headline("", number, meaning, lead, shown, also)
    gain = signed(facts["gain_over_zero_router"])
    return Headline(verdict_of(interval), gain, _gain(interval, FIXED_MIX), lead, shown, also)


# --- two sides -------------------------------------------------------------------------------


def of_comparison(figures: Mapping[str, Any], outcomes: Outcomes) -> Headline:
    """The head of a comparison: the difference that decides."""
    at, where = decisive(figures)
    a, b = figures["a"], figures["b"]
    shown = (
        *(
            Tile(f"{key} as served", f"{points(side['quality'])} %", _side(side))
            for key, side in (("A", a), ("B", b))
        ),
        _rows(outcomes),
    )
    also = (f"A is {a['name']}, B is {b['name']}.", *figures["warnings"])
    if at is None or at["difference"] is None:
        return Headline("", "–", "no cost can be reached by both", in_words(figures), shown, also)
    verdict = verdict_of(at["difference_ci"])
    claim = {"gain": "a proven gain", "loss": "a proven loss", "unproven": "no proven difference"}
    gap = (
        f"percentage points {between(at['difference_ci'], sign=True)}: {claim[verdict]} of B over A"
    )
    lead = f"{where}, B reaches {points(at['b'])} % and A {points(at['a'])} %."
    return Headline(verdict, signed(at["difference"]), gap, lead, shown, also)


def _side(side: Mapping[str, Any]) -> str:
    goal = f" ({side['asked_for']})" if side["asked_for"] else ""
    if side["cost"] is None:
        return f"{side['name']}{goal}"
    return f"at US${dollars(side['cost'])} per 1,000 queries{goal}"


# --- the figures below -----------------------------------------------------------------------


def tiles(
    facts: dict[str, Any], policy: PolicyConfig, most_expensive: str, outcomes: Outcomes
) -> tuple[Tile, ...]:
    """Quality, cost, what was asked for, and what the rows prove."""
    goal, kept = goal_of(facts, policy)
    title = goal.replace(" %", "\N{NO-BREAK SPACE}%")
    asked = (Tile("asked for", title, kept or "kept", tone_of(kept)),) if goal else ()
    return (_quality(facts), *_cost(facts, most_expensive), *asked, _rows(outcomes))


def tone_of(kept: str) -> str:
    """The colour of how well a goal is kept."""
    return {"": "good", "not kept": "bad"}.get(kept, "open")


def _quality(facts: Mapping[str, Any]) -> Tile:
    low, high = map(points, facts["quality_ci"])
    return Tile("quality", f"{points(facts['quality'])} %", f"95 % interval {low} to {high}")


def _cost(facts: Mapping[str, Any], most_expensive: str) -> tuple[Tile, ...]:
    if facts["cost_fraction_ci"] is None:
        return ()
    share, ends = percent(facts["cost_fraction"]), facts["cost_fraction_ci"]
    low, high = (f"{100 * end:.0f}" for end in ends)
    note = f"per 1,000 queries; {share} ({low} to {high} %) of {most_expensive}"
    return (Tile("cost", f"US${dollars(facts['cost'])}", note),)


def _rows(outcomes: Outcomes) -> Tile:
    rows, different = len(outcomes), questions(outcomes)
    few = different < text.TOO_FEW
    proof = (
        "too few to prove anything"
        if few
        else f"can prove differences of about {text.difference(different):.0f}"
        " percentage points or more"
    )
    if different < rows:
        proof = f"of {different:,} questions, {'which are ' if few else 'which '}{proof}"
    tone = "bad" if few else "open" if different < text.FEW else ""
    return Tile("evidence", f"{rows:,} rows" if rows != 1 else "1 row", proof, tone)


# --- a card ----------------------------------------------------------------------------------


def of_card(card: Mapping[str, Any]) -> Headline:
    """The head of a card: what a policy with `max_cost_fraction: 0.5` serves, in the fit's
    cross-validation, or what the best point reaches where costs are not known."""
    half, names = card["at_cost_fraction"]["0.5"], card["experts"]
    of = f"for each query, this router chooses among {len(names)} experts."
    best = max(card["curve"], key=lambda point: point["quality"], default=None)
    shown = half or best
    if shown is None:
        return Headline(
            "", "–", "it has no operating points: fit it again", of.capitalize(), (), ()
        )
    if half is None or card["unproven"]:
        number, gain, verdict = f"{points(shown['quality'])} %", "quality that is expected", ""
    else:
        number, verdict = signed(half["gain"]), verdict_of(half["gain_ci"])
        gain = _gain(half["gain_ci"], FIXED_MIX)
    return Headline(verdict, number, gain, of.capitalize(), _card_tiles(card, shown), ())


def _card_tiles(card: Mapping[str, Any], shown: Mapping[str, Any]) -> tuple[Tile, ...]:
    outside, learned = card["left_out"], card["learned"]
    elsewhere = Tile("on other topics", "–", "not measured", "open")
    if outside is not None:
        tone = {"gain": "good", "unproven": "open", "loss": "bad"}[verdict_of(outside["gain_ci"])]
        note = "points, learned there too" if outside["pays"] else "points: the fixed mix is served"
        elsewhere = Tile("on other topics", signed(outside["gain"]), note, tone)
    return (
        Tile("quality", f"{points(shown['quality'])} %", between(shown["quality_ci"])),
        Tile(
            "US$ per 1,000",
            dollars(shown["cost"]),
            f"{percent(shown['cost_fraction'])} of the most expensive expert's",
        ),
        Tile("learned points", f"{learned['points']} of {learned['of']}", "a fixed mix elsewhere"),
        elsewhere,
    )


# --- an interview and its like ---------------------------------------------------------------


def of_interview(summary: Mapping[str, Any], experts: Sequence[Any]) -> Headline:
    """The head of the report about an interview: the best expert, and what everything took."""
    graded = [row for row in experts if row.quality is not None]
    best = max(graded, key=lambda row: row.quality, default=None)
    number, gain = "–", "no answer has a grade"
    if best is not None:
        number = f"{points(best.quality)} %"
        gain = f"{between(best.interval)} has {best.name}, the best expert on these queries"
    answers, failed = sum(row.answers for row in experts), sum(row.failed for row in experts)
    whole = "complete" if summary["complete"] else "answers are missing: run the same command again"
    return Headline(
        "",
        number,
        gain,
        f"{len(experts)} experts were asked {summary['queries']:,} queries.",
        (
            Tile("spent", f"US$ {summary['cost']:.4f}", "by all runs with this journal"),
            Tile("answers", f"{answers:,}", whole, "" if summary["complete"] else "open"),
            Tile("failed", f"{failed:,}", "asks without an answer", "open" if failed else ""),
        ),
        (),
    )


def of_rounds(rounds: Sequence[Mapping[str, Any]], kept: int, verdict: str) -> Headline:
    """The head of the report about a self-play: what the round that is kept gains."""
    first, last = rounds[0], rounds[-1]
    chosen = next(one for one in rounds if one["number"] == kept)
    number, gain = "–", "was not measured: name a held-out table"
    if first["quality"] is not None and chosen["quality"] is not None:
        number = signed(chosen["quality"] - first["quality"])
        gain = "percentage points on the held-out table, compared with the start"
    asked = sum(one["asked"] for one in rounds)
    return Headline(
        "",
        number,
        gain,
        verdict,
        (
            Tile("quality", f"{points(chosen['quality'])} %", "of the router that is kept"),
            Tile("spent", f"US$ {last['spent']:.4f}", "in all rounds"),
            Tile("asked", f"{asked:,}", "new queries"),
        ),
        (),
    )
