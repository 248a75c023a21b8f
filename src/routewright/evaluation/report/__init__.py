"""`routewright evaluate --html`: one page that shows whether a router pays, and why.

Every figure on the page is measured on the evaluated rows. If a gain is not proven, the first
sentence of the page says so. The page needs no network and no script.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

from routewright import __version__
from routewright.data.outcomes import Fingerprints
from routewright.errors import BadInput
from routewright.evaluation.figures import Evaluation
from routewright.evaluation.report import pictures, words
from routewright.evaluation.report.audit import audit
from routewright.evaluation.report.headline import headline
from routewright.evaluation.report.study import Study
from routewright.evaluation.report.tables import (
    SMALL_DOMAIN,
    domain_rows,
    expert_rows,
    fraction_rows,
    mistakes,
)

DOMAINS_SHOWN = 20
FILTERS = (words.points, words.signed, words.between, words.percent, words.rate, words.dollars)


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
    page: str = _template().render(
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
        card=evaluation.router.card,
        command=command,
        version=__version__,
        small_domain=SMALL_DOMAIN,
        domains_shown=DOMAINS_SHOWN,
    )
    return page


def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    for show in FILTERS:
        environment.filters[show.__name__] = show
    page = resources.files("routewright.evaluation.report").joinpath("page.html")
    return environment.from_string(page.read_text(encoding="utf-8"))
