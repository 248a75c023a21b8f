"""The model names that clients may request, and the policy behind each."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from routewright.config import Config, PolicyConfig
from routewright.config.policies import EXPERT_OPTIONS
from routewright.errors import BadConfig, BadInput, NotAdmissible
from routewright.gateway.batches import BatchingRouter, chooses, foreseeing
from routewright.gateway.body import MAX_NAME
from routewright.gateway.errors import BadRequest
from routewright.gateway.pacing import Pace, Pacer, Pacers
from routewright.gateway.turn_price import TurnPrice
from routewright.router.frontier import OperatingPoint
from routewright.router.predicted import PredictedRouter
from routewright.router.router import Router
from routewright.strategies import build, is_light
from routewright.strategies._recorded import Recorded, Run, run
from routewright.strategies.fallback import with_fallback
from routewright.strategies.fixed import Fixed
from routewright.strategies.single import Single
from routewright.types import Plan, Query, Strategy, changed

log = logging.getLogger(__name__)
PREFIX = "routewright/"
AUTO = ("", "auto", f"{PREFIX}auto")
DIRECT = "direct"  # the policy of a request that names an expert
ROUTELLM = re.compile(r"router-(?P<name>.+)-(?P<threshold>\d+(?:\.\d+)?|\.\d+)")
ROUTELLM_NAMES = ("mf", "sw_ranking", "bert", "causal_llm", "random")
GOALS = ("max_cost", "max_cost_fraction", "min_quality")
PACING = "routewright-pacing.json"  # beside the config: the states of paced policies


@dataclass(frozen=True)
class Policy:
    """A strategy with its settings, under the name that clients request."""

    name: str
    strategy: Strategy
    fallback: tuple[str, ...] = ()
    router: Router | None = None
    point: OperatingPoint | None = None
    latency_price: float = 0.0  # μ; λ is that of the point
    pacer: Pacer | None = None  # None: the point decides about every query
    version: str | None = None  # of the router
    experts: tuple[str, ...] = ()  # that it may ask for an answer; empty: unknown
    embeddings: str | None = None  # the expert that makes embeddings
    sticky: str = "session"  # see `sessions.strategy_for`
    relative: bool = False  # whether its budget is a share of what the dearest expert costs
    turns: TurnPrice | None = None  # of conversations, where its budget is such a share

    def may_ask(self, expert: str) -> bool:
        """Whether an expert is one of those that the policy asks, as far as that is known."""
        return not self.experts or expert in self.experts

    def paced(self, query: Query) -> tuple[Policy, Pace | None]:
        """The policy at the point that keeps its budget now, and the pace of the request."""
        if self.pacer is None or self.router is None:
            return self, None
        pace = self.pacer.begin(query, price=query.price)
        router = PredictedRouter.of(self.router, [query], pace.prediction)
        return replace(self, router=router).at(pace.point), pace

    async def foreseen(self, query: Query, run: Callable[..., Awaitable[Any]]) -> Policy:
        """The policy with the prediction of a query, if it chooses an expert by that; `run` runs a
        function in a thread."""
        if not isinstance(self.router, BatchingRouter) or not chooses(self.strategy):
            return self
        prediction = await self.router.foresee(query, run)
        router = PredictedRouter.of(self.router, [query], prediction)
        return changed(self, router=router, strategy=foreseeing(self.strategy, router))

    def at(self, point: OperatingPoint) -> Policy:
        """The policy at another operating point of its router."""
        assert self.router is not None
        return replace(self, strategy=self.router.strategy_at(point), point=point)

    def check(self, query: Query) -> None:
        """Raises BadRequest if the policy cannot apply a limit of the query."""
        if query.min_quality is not None and self.router is None:
            raise BadRequest(
                f"policy '{self.name}' predicts no quality, so it cannot apply"
                f" min_quality {query.min_quality:g}: request a policy with a router",
                "min_quality",
            )
        if query.latency_price and not (self.router and self.router.knows_latency):
            raise BadRequest(
                f"policy '{self.name}' predicts no latency, so it cannot apply latency_price"
                f" {query.latency_price:g}: request a policy whose router knows latencies",
                "latency_price",
            )

    def strategy_for(self, query: Query) -> Strategy:
        """The strategy for this query's own λ and limits; raises BadRequest as `check` does."""
        self.check(query)
        return with_fallback(self._strategy_for(query), self.fallback)

    def _strategy_for(self, query: Query) -> Strategy:
        if self.point is None or self.router is None:
            return self.strategy
        # The frontier ignores latency. So its fixed mixes do not apply where latency has a price.
        best_admissible = Single(self.router, self.point.price, self.latency_price)
        if query.min_quality is not None or query.latency_price or self.latency_price:
            return best_admissible
        preferred = self.strategy if query.price is None else self.router.strategy(query.price)
        return WithinLimits(preferred, best_admissible)


def version_of(folder: Path) -> str:
    """A hash of a router's file, by which records tell one fit from the next."""
    return hashlib.blake2b((folder / "router.json").read_bytes(), digest_size=6).hexdigest()


@dataclass(frozen=True)
class WithinLimits:
    """Follows `preferred`, or `alternative` if the query's limits forbid an expert of it."""

    preferred: Strategy
    alternative: Strategy

    @property
    def light(self) -> bool:
        return is_light(self.preferred) and is_light(self.alternative)

    def plan(self, query: Query) -> Plan:
        try:
            decision = yield from self.preferred.plan(query)
        except NotAdmissible:
            decision = yield from self.alternative.plan(query)
        return decision

    def over(self, rows: Recorded) -> Run:
        """Recorded queries have no limits, so `preferred` decides."""
        return run(self.preferred, rows)


def _experts(
    policy: PolicyConfig, router: Router | None, point: OperatingPoint | None
) -> tuple[str, ...]:
    """The experts that a policy may ask for an answer; empty if its strategy does not tell.

    A strategy asks the experts that its own options name, or else those of its router and those of
    the strategies among its options. A policy with an operating point may ask every expert of its
    router.
    """
    names = tuple(_named(policy.options))
    if router is not None and (
        point is not None or policy.options.keys().isdisjoint(EXPERT_OPTIONS)
    ):
        names += router.experts
    return _distinct(names, policy.fallback) if names else ()


def _named(options: Mapping[str, Any]) -> Iterator[str]:
    """The experts that a strategy's options name, and those of the strategies among them."""
    for key, value in options.items():
        if key in EXPERT_OPTIONS:
            yield from _texts(value)
        elif isinstance(value, Mapping) and "strategy" in value:
            yield from _named(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Sequence):
        for part in value:
            yield from _texts(part)


def _distinct(*names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain(*names)))


class Policies:
    """The model names that clients may request, and the policy behind each.

    Raises BadConfig if a policy cannot be built.
    """

    def __init__(self, config: Config) -> None:
        if not config.policies:
            raise BadConfig("there is no policy to serve: add one under `policies:`")
        self._routers: dict[Path, Router] = {}
        self._versions: dict[Path, str] = {}
        self.experts = tuple(entry.name for entry in config.experts)
        self._latency = {e.name: e.latency for e in config.experts if e.latency is not None}
        self.by_name = {
            name: self._build(name, policy, config.folder)
            for name, policy in config.policies.items()
        }
        pacers = {name: p.pacer for name, p in self.by_name.items() if p.pacer is not None}
        self.pacers = Pacers(config.folder / PACING, pacers)
        self.default = config.default_policy or next(iter(self.by_name))

    def names(self) -> list[str]:
        """The names that `/v1/models` lists, policies first."""
        return ["auto", *(f"{PREFIX}{policy}" for policy in self.by_name), *self.experts]

    def find(self, model: str | None) -> Policy:
        """The policy behind a name. Raises BadRequest (404), which lists the names that exist."""
        name = model or ""
        if name in AUTO:
            return self.by_name[self.default]
        if name.removeprefix(PREFIX) in self.by_name:
            return self.by_name[name.removeprefix(PREFIX)]
        if name in self.experts:
            return Policy(DIRECT, Fixed(name), experts=(name,), embeddings=name)
        if len(name) <= MAX_NAME and (match := ROUTELLM.fullmatch(name)):
            return self._at_threshold(name, match["name"], match["threshold"])
        raise self._unknown(name)

    def _at_threshold(self, model: str, name: str, threshold: str) -> Policy:
        """The policy behind one of RouteLLM's names, `router-NAME-THRESHOLD`.

        Threshold t stands for what a policy with a `max_cost_fraction` of 1 − t serves, or for the
        cheapest point if all cost more. As in RouteLLM, 0 always
        asks the strong model and 1 never does.
        """
        policy = self.by_name.get(self.default if name in ROUTELLM_NAMES else name)
        if policy is None or policy.router is None:
            raise self._unknown(model)
        share = 1 - float(threshold)
        if share < 0:
            raise BadRequest(f"threshold {threshold} of '{model}' is not between 0 and 1", "model")
        router = policy.router
        lowest = min(point.cost_fraction for point in router.frontier)
        point = router.within(max_cost_fraction=max(share, lowest))
        strategy = router.strategy_at(point)
        experts = _distinct(router.experts, policy.fallback)
        return replace(
            policy,
            strategy=strategy,
            point=point,
            latency_price=0.0,
            pacer=None,
            experts=experts,
            relative=True,
        )

    def _unknown(self, model: str) -> BadRequest:
        message = f"model '{model[:100]}' does not exist: request one of {', '.join(self.names())}"
        return BadRequest(message, "model", status=404, code="model_not_found")

    def _build(self, name: str, policy: PolicyConfig, folder: Path) -> Policy:
        try:
            router = self._router(folder / policy.router) if policy.router else None
            if policy.latency_price and router and not router.knows_latency:
                raise BadInput(
                    "latency_price needs latencies, and the router knows none: give experts a"
                    " `latency:`, or fit on a table with latency::EXPERT"
                )
            goal = {key: getattr(policy, key) for key in GOALS if getattr(policy, key) is not None}
            point = router.within(**goal) if router and goal else None
            if router and policy.tie:
                point = router.tied()
            spec = policy.spec()
            if router and policy.price is not None:
                spec = router.budgeted(spec, policy.price)
            strategy = router.strategy_at(point) if router and point else build(spec, router)
        except BadInput as error:
            raise BadConfig(f"policy '{name}': {error}") from error
        latency_price = policy.latency_price or 0.0
        pacer = Pacer(router, **goal) if router and policy.pace else None
        return Policy(
            name,
            strategy,
            tuple(policy.fallback),
            router,
            point,
            latency_price,
            pacer,
            self._versions[folder / policy.router] if policy.router else None,
            _experts(policy, router, point),
            policy.embeddings,
            policy.sticky,
            bool(goal) and "max_cost" not in goal,
            TurnPrice() if "max_cost_fraction" in goal else None,
        )

    def _router(self, folder: Path) -> Router:
        """The router of a folder, which all policies that name the folder share."""
        if folder not in self._routers:
            router = BatchingRouter.of(Router.load(folder).with_latency(self._latency))
            router.predict([Query.of("")])  # loads the files it refers to, or fails
            if assumption := router.card.get("unproven"):
                log.warning("router '%s' is unproven: %s", folder, assumption)
            self._routers[folder] = router
            self._versions[folder] = version_of(folder)
        return self._routers[folder]
