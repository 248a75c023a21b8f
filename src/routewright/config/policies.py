"""What can be wrong with the policies: strategies, their options, routers and operating points.

Rules are generators over the document, as in `rules.py`, which runs them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from routewright import files, registry
from routewright.config.document import NAME, Document, Loc, Problem
from routewright.errors import BadInput
from routewright.registry import choose

OPERATING_POINTS = ("price", "max_cost", "max_cost_fraction", "min_quality")
PRICES = {"price": "price", "latency_price": "latency"}  # keys of a policy ▶ what they weigh
EXPERT_OPTIONS = ("expert", "experts", "ladder", "then")  # strategy fields that hold experts


def expert_names(document: Document) -> list[str]:
    """Every name that is text, once, in the order of the file."""
    named = (document.get(*loc, "name") for loc, _ in document.items("experts"))
    return list(dict.fromkeys(name for name in named if isinstance(name, str)))


def _known_experts(document: Document, loc: Loc, *, needed: bool = False) -> Iterator[Problem]:
    value, known = document.get(*loc), expert_names(document)
    if needed and value == []:
        yield document.problem(loc, "names no expert", choose("", known))
    named = [(loc, value)] if isinstance(value, str) else document.items(*loc)
    for at, name in named:
        if isinstance(name, str) and name not in known:
            yield document.problem(at, "is no expert of this file", choose(name, known))


def some_policies(document: Document) -> Iterator[Problem]:
    policies = document.get("policies")
    if policies or not (policies is None or isinstance(policies, dict)):
        return
    expert = next(iter(expert_names(document)), "NAME")
    example = f"policies: {{default: {{strategy: fixed, options: {{expert: {expert}}}}}}}"
    yield document.problem(("policies",), "names no policy", f"the simplest is `{example}`")


def policy_names(document: Document) -> Iterator[Problem]:
    for loc, _ in document.items("policies"):
        if not NAME.fullmatch(str(loc[-1])):
            mend = "use visible ASCII characters, without space and `>`"
            yield document.problem(loc, "cannot travel in an HTTP header", mend, key=True)


def default_policy(document: Document) -> Iterator[Problem]:
    name, policies = document.get("default_policy"), document.get("policies")
    if isinstance(name, str) and isinstance(policies, dict) and name not in policies:
        yield document.problem(("default_policy",), "is no policy", choose(name, policies))


def fallbacks(document: Document) -> Iterator[Problem]:
    for loc, _ in document.items("policies"):
        yield from _known_experts(document, (*loc, "fallback"))
        yield from _known_experts(document, (*loc, "embeddings"))


def one_operating_point(document: Document) -> Iterator[Problem]:
    for loc, policy in document.items("policies"):
        given = [
            key
            for key in OPERATING_POINTS
            if isinstance(policy, dict) and policy.get(key) is not None
        ]
        if len(given) > 1:
            what = f"{' and '.join(given)} exclude each other"
            yield document.problem((*loc, given[1]), what, "keep one", key=True)


def ties(document: Document) -> Iterator[Problem]:
    for loc, policy in document.items("policies"):
        if not isinstance(policy, dict) or policy.get("tie") is None:
            continue
        if policy.get("router") is None or policy.get("price") != 0:
            fix = "add `price: 0` and a `router:`, or remove this key"
            yield document.problem((*loc, "tie"), "needs a router at λ = 0", fix, key=True)


def pacing(document: Document) -> Iterator[Problem]:
    for loc, policy in document.items("policies"):
        if not isinstance(policy, dict) or policy.get("pace") is not True:
            continue
        if policy.get("max_cost") is None and policy.get("max_cost_fraction") is None:
            fix = "add `max_cost:` or `max_cost_fraction:`, or remove this key"
            yield document.problem((*loc, "pace"), "needs a budget to keep", fix, key=True)


def strategies(document: Document) -> Iterator[Problem]:
    for loc, policy in document.items("policies"):
        name = document.get(*loc, "strategy")
        if not isinstance(policy, dict) or not isinstance(name, str):
            continue
        strategy = _found(document, (*loc, "strategy"))
        if isinstance(strategy, Problem):
            yield strategy
            continue
        yield from _router(document, loc, needed=registry.takes(strategy, "router"))
        yield from _prices(document, loc, strategy)
        options = policy.get("options") or {}
        if isinstance(options, dict):
            yield from _options(document, loc, options)


def _found(document: Document, loc: Loc) -> Any:
    """The class behind the strategy named there, or the Problem with it."""
    name = document.get(*loc)
    if name not in registry.names("strategies"):
        mend = choose(name, registry.names("strategies"))
        return document.problem(loc, "is no known strategy", mend)
    try:
        return registry.find("strategies", name)
    except BadInput as error:
        return document.problem(loc, "is no strategy that can be used", str(error))


def _prices(document: Document, loc: Loc, strategy: Any) -> Iterator[Problem]:
    name, policy = document.get(*loc, "strategy"), document.get(*loc)
    options = policy.get("options")
    for key, weighed in PRICES.items():
        if key in policy and not registry.takes(strategy, key):
            mend = "remove it, or use a strategy that predicts, like `single`"
            yield document.problem((*loc, key), f"strategy '{name}' weighs no {weighed}", mend)
        elif key in policy and isinstance(options, dict) and key in options:
            mend = f"keep `{key}:` beside `strategy:`"
            yield document.problem((*loc, "options", key), f"{key} is given twice", mend)


# -- routers -----------------------------------------------------------------------------------


def _router(document: Document, loc: Loc, *, needed: bool) -> Iterator[Problem]:
    policy = document.get(*loc)
    point = next((key for key in OPERATING_POINTS[1:] if policy.get(key) is not None), None)
    fit = "`router: FOLDER` (`routewright fit OUTCOMES.parquet --out FOLDER` trains one)"
    if policy.get("router") is not None:
        yield from _router_folder(document, (*loc, "router"))
    elif needed:
        missing = f"strategy '{policy['strategy']}' needs a router"
        yield document.problem((*loc, "router"), missing, f"add {fit}")
    elif point:
        missing = f"{point} chooses a point of a router, and there is none"
        yield document.problem((*loc, point), missing, f"add {fit}, or remove it")


def _router_folder(document: Document, loc: Loc) -> Iterator[Problem]:
    folder = document.get(*loc)
    if not isinstance(folder, str):
        return
    fit = f"`routewright fit OUTCOMES.parquet --out {document.written(loc)}` trains one"
    path = document.path.parent / folder
    try:
        (content,) = files.read_folder(path, {"router.json": files.LONGEST})
        router = files.parse_json(content, "router.json")
        old = router.get("card", {})  # of routers saved before verifiers were a field
        experts = [*router["experts"], *router.get("verifiers", old.get("verifiers", ()))]
        names = [expert if isinstance(expert, str) else expert["name"] for expert in experts]
    except OSError:
        mend = f"{fit}; the path counts from the folder of {document.path.name}"
        what = "is no router: there is no router.json in it"
        if not path.exists():
            what = f"the folder '{folder}' does not exist"
            mend += "; `interview` needs no router, and runs before"
        yield document.problem(loc, what, mend)
        return
    except (BadInput, AttributeError, KeyError, TypeError, ValueError):
        yield document.problem(loc, "holds a router.json that lists no experts", fit)
        return
    if absent := [name for name in names if name not in expert_names(document)]:
        what = f"was trained on experts that are not here: {', '.join(absent)}"
        mend = f"add them to `experts:`, or fit with --experts {','.join(expert_names(document))}"
        yield document.problem(loc, what, mend)


# -- the options of a strategy -----------------------------------------------------------------


def _options(document: Document, loc: Loc, options: Mapping[str, Any]) -> Iterator[Problem]:
    name = document.get(*loc, "strategy")
    objects = ("router",) if document.get(*loc, "router") else ()
    wrong = set()
    for fault in registry.faults("strategies", name, options, objects):
        at = (*loc, "options", *fault.loc)
        wrong.add(at)
        if fault.loc:  # `_router` has told of a router that the policy itself lacks
            mend = fault.fix
            if fault.kind == "object" or fault.loc[-1] == "router":
                mend = "write `router: FOLDER` beside the policy's `strategy:`"
            yield document.problem(at, fault.problem, mend, key=fault.kind == "unknown")
    for at in _experts(document, (*loc, "options")):
        if at not in wrong:
            yield from _known_experts(document, at, needed=True)


def _experts(document: Document, at: Loc) -> Iterator[Loc]:
    """Where a strategy's options name experts, and those of the strategies among them."""
    for loc, value in document.items(*at):
        if loc[-1] in EXPERT_OPTIONS:
            yield loc
        elif isinstance(value, dict) and "strategy" in value:
            yield from _experts(document, loc)
