"""The pages of `--html`: whether a router, or a config, pays, and why; and what an interview or a
self-play did.

Every figure of an evaluation is measured on the evaluated rows. If a gain is not proven, the head
of the page says so. The page needs no network and no script, and names no folder of this machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

from routewright import __version__
from routewright.data import text
from routewright.data.outcomes import Fingerprints
from routewright.errors import BadInput
from routewright.evaluation import card as cards
from routewright.evaluation import plots
from routewright.evaluation.compare import Comparison
from routewright.evaluation.evaluate import drawn_whole
from routewright.evaluation.figures import Evaluation
from routewright.evaluation.policies import Judged, goal_of
from routewright.evaluation.report import pictures, words
from routewright.evaluation.report.audit import Audit, audit
from routewright.evaluation.report.headline import (
    headline,
    of_card,
    of_comparison,
    of_interview,
    of_policy,
    of_rounds,
    tone_of,
)
from routewright.evaluation.report.study import Study
from routewright.evaluation.report.tables import (
    domain_rows,
    expert_rows,
    fraction_rows,
    mistakes,
    robustness_rows,
)
from routewright.metrics.sampling import wilson

DOMAINS_SHOWN = 20
FILTERS = (
    words.points,
    words.signed,
    words.between,
    words.percent,
    words.rate,
    words.dollars,
    words.local,
)


def render(
    evaluation: Evaluation,
    figures: Mapping[str, Any],
    command: str | None = None,
    *,
    seen: Fingerprints | None = None,
) -> str:
    """The report as one HTML file; `figures` is what `evaluate --json` writes.

    The page prints `command`, which makes it again. `seen` holds the fingerprints of the prompts
    that the router was fitted on, for the overlap audit. Raises BadInput for the evaluation of a
    strategy, because the report needs a router's predictions.
    """
    if evaluation.router is None:
        raise BadInput("a report needs the predictions of a router: evaluate a router")
    study = Study(evaluation, figures)
    return _page(
        "page.html",
        evaluation,
        study.priced,
        study=study,
        headline=headline(study),
        audit=audit(evaluation, seen),
        fractions=fraction_rows(study),
        picture=pictures.cost_quality(study),
        shares_picture=pictures.shares(study),
        experts=expert_rows(study),
        domains=domain_rows(study),
        reliability=pictures.reliability(study),
        mistakes=mistakes(study),
        robustness=robustness_rows(figures.get("robustness")),
        of_rows=figures.get("robustness"),
        card=evaluation.router.card,
        command=command,
    )


class PolicyRow(NamedTuple):
    name: str
    strategy: str
    goal: str
    kept: str
    tone: str
    facts: Mapping[str, Any]
    fractions: str  # the interval of its cost fraction
    verdict: str  # empty where no choice is learned, or costs are unknown
    shares: Mapping[str, float]


def render_policies(
    judged: Sequence[Judged],
    first: Judged,
    figures: Mapping[str, Any],
    config: str,
    command: str | None = None,
    *,
    curve: tuple[str, Evaluation] | None = None,
) -> str:
    """The report about the policies of a config; `figures` is what `evaluate --json` writes.

    `first` is the policy that the head speaks of, `config` the name of the file. `curve` names a
    policy and has its router's operating points, which the picture then shows.
    """
    study = Study(first.evaluation, first.evaluation.to_json())
    dearest = study.most_expensive
    return _page(
        "policies.html",
        first.evaluation,
        study.priced,
        study=study,
        headline=of_policy(first, figures, dearest),
        figures=figures,
        config=words.local(config),
        dearest=dearest,
        policies=[_policy_row(one) for one in judged],
        several=any(one.evaluation.runs[0].asked.sum(axis=1).max() > 1.001 for one in judged),
        picture=pictures.of_policies(judged, figures, dearest, None if curve is None else curve[1]),
        curve=None if curve is None else curve[0],
        served=first.name,
        domains=domain_rows(study),
        mistakes=mistakes(study) if first.learned else [],
        audits=_audits(judged),
        command=command,
    )


def _policy_row(one: Judged) -> PolicyRow:
    facts, (goal, kept) = one.facts, goal_of(one.facts, one.config)
    ends, gain = facts["cost_fraction_ci"], facts["gain_ci"]
    return PolicyRow(
        name=one.name,
        strategy=one.config.strategy,
        goal=goal,
        kept=kept or ("kept" if goal else ""),
        tone=tone_of(kept) if goal else "",
        facts=facts,
        fractions=f"({100 * ends[0]:.0f} to {100 * ends[1]:.0f} %)" if ends else "",
        verdict=words.verdict_of(gain) if gain and one.learned else "",
        shares=one.evaluation.runs[0].shares(one.evaluation.outcomes.experts),
    )


def _audits(judged: Sequence[Judged]) -> tuple[Audit, ...]:
    """The overlap of the rows with those that each router of the policies was fitted on."""
    found: dict[Audit, None] = {}
    for one in judged:
        if (router := one.policy.router) is not None:
            seen = router.seen if router.seen.size else None
            found[audit(one.evaluation, seen, router)] = None
    return tuple(found)


def render_comparison(
    comparison: Comparison, figures: Mapping[str, Any], command: str | None = None
) -> str:
    """The report about two routers or policies; `figures` is what `compare --json` writes."""
    rows = comparison.rows
    return _page(
        "comparison.html",
        comparison.a.evaluation,
        comparison.priced,
        headline=of_comparison(figures, rows),
        figures=figures,
        picture=pictures.of_comparison(comparison, figures),
        outcomes=rows,
        command=command,
    )


def render_card(facts: Mapping[str, Any], command: str | None = None) -> str:
    """The card of a router as one HTML file; `facts` is what `card --json` writes."""
    domains = sorted((facts["data"]["domains"] or {}).items(), key=lambda one: (-one[1], one[0]))
    return _filled(
        "card.html",
        priced=plots.priced(facts),
        card=facts,
        headline=of_card(facts),
        sentences=list(cards.in_words(facts)),
        picture=pictures.of_card(facts),
        domains=domains,
        verdict_of=words.verdict_of,
        command=command,
    )


class ExpertRow(NamedTuple):
    """What an expert did in an interview."""

    name: str
    quality: float | None
    interval: tuple[float, float] | None
    cost: float | None
    latency: float | None
    answers: int
    failed: int
    ungraded: int
    cut_off: int


def render_interview(summary: Mapping[str, Any], source: str, out: str) -> str:
    """The report about an interview; `summary` is what `interview --json` prints, `source` the
    query set and `out` the table."""
    experts = [_expert_row(name, facts) for name, facts in summary["experts"].items()]
    problems = [
        {"expert": name, "reason": f"{kind}: {why}", "count": count}
        for name, facts in summary["experts"].items()
        for kind in ("failed", "ungraded")
        for why, count in facts[kind].items()
    ]
    checks = [
        {**answer, "expert": name, "score": score, "reference": " / ".join(answer["reference"])}
        for name, facts in summary["experts"].items()
        for kind, score in (("missed", 0), ("long", 1))
        for answer in facts["audit"][kind]
    ]
    return _filled(
        "interview.html",
        headline=of_interview(summary, experts),
        summary=summary,
        experts=experts,
        problems=problems,
        checks=checks,
        source=source,
        out=out,
    )


def _expert_row(name: str, facts: Mapping[str, Any]) -> ExpertRow:
    interval = None
    if facts["quality"] is not None:
        low, high = wilson(np.array([facts["quality"]]), np.array([float(facts["graded"])]))
        interval = float(low[0]), float(high[0])
    return ExpertRow(
        name=name,
        quality=facts["quality"],
        interval=interval,
        cost=facts["cost"],
        latency=facts["latency"],
        answers=facts["answers"],
        failed=sum(facts["failed"].values()),
        ungraded=sum(facts["ungraded"].values()),
        cut_off=facts["cut_off"],
    )


def render_rounds(rounds: Sequence[Mapping[str, Any]], kept: int, at: float, verdict: str) -> str:
    """The report about the rounds of a self-play; the router of round `kept` is handed over, and
    quality is measured at the cost fraction `at`."""
    return _filled(
        "rounds.html",
        headline=of_rounds(rounds, kept, verdict),
        picture=pictures.of_rounds(rounds, kept),
        rounds=rounds,
        kept=kept,
        at=at,
        stopped=rounds[-1]["stopped"],
    )


def _page(name: str, evaluation: Evaluation, priced: bool, **values: Any) -> str:
    return _filled(
        name,
        priced=priced,
        replicates=len(evaluation.weights),
        drawn_whole=drawn_whole(evaluation.outcomes),
        small_domain=text.TOO_FEW,
        domains_shown=DOMAINS_SHOWN,
        **values,
    )


def _filled(name: str, **values: Any) -> str:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        loader=FunctionLoader(_template),
    )
    for show in FILTERS:
        environment.filters[show.__name__] = show
    page: str = environment.get_template(name).render(version=__version__, **values)
    return page.strip() + "\n"


def _template(name: str) -> str:
    page = resources.files("routewright.evaluation.report").joinpath(name)
    return page.read_text(encoding="utf-8")
