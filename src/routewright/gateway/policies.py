"""The model names that clients may ask for, and the strategy behind each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from routewright.config import Config, PolicyConfig
from routewright.errors import BadConfig, BadInput, NotAdmissible
from routewright.gateway.errors import BadRequest
from routewright.router.frontier import OperatingPoint
from routewright.router.router import Router
from routewright.strategies import build
from routewright.strategies.fallback import with_fallback
from routewright.strategies.fixed import Fixed
from routewright.strategies.single import Single
from routewright.types import Plan, Query, Strategy

PREFIX = "routewright/"
AUTO = ("", "auto", f"{PREFIX}auto")
DIRECT = "direct"  # the policy of a request that names an expert
ROUTELLM = re.compile(r"router-(?P<name>.+)-(?P<threshold>\d*\.?\d+)")
ROUTELLM_NAMES = ("mf", "sw_ranking", "bert", "causal_llm", "random")
GOALS = ("max_cost", "max_cost_fraction", "min_quality")


@dataclass(frozen=True)
class Policy:
    """A strategy with its settings, under the name that clients ask for."""

    name: str
    strategy: Strategy
    fallback: tuple[str, ...] = ()
    router: Router | None = None
    point: OperatingPoint | None = None
    latency_price: float = 0.0  # μ, beside the point's λ

    def strategy_for(self, query: Query) -> Strategy:
        """The strategy under this query's own λ and limits."""
        if query.min_quality is not None and self.router is None:
            raise BadRequest(
                f"policy '{self.name}' predicts no quality, so it cannot keep "
                f"min_quality {query.min_quality:g}: ask a policy with a router",
                "min_quality",
            )
        if query.latency_price and not (self.router and self.router.knows_latency):
            raise BadRequest(
                f"policy '{self.name}' knows no expert's seconds, so it cannot weigh"
                f" latency_price {query.latency_price:g}: ask a policy with a router that does",
                "latency_price",
            )
        return with_fallback(self._strategy_for(query), self.fallback)

    def _strategy_for(self, query: Query) -> Strategy:
        if self.point is None or self.router is None:
            return self.strategy
        # The frontier did not weigh seconds: where they count, its fixed mixes do not hold.
        best_admissible = Single(self.router, self.point.price, self.latency_price)
        if query.min_quality is not None or query.latency_price or self.latency_price:
            return best_admissible
        preferred = self.strategy if query.price is None else self.router.strategy(query.price)
        return WithinLimits(preferred, best_admissible)


@dataclass(frozen=True)
class WithinLimits:
    """Follows `preferred`; where the query's limits forbid its expert, `otherwise`."""

    preferred: Strategy
    otherwise: Strategy

    def plan(self, query: Query) -> Plan:
        try:
            decision = yield from self.preferred.plan(query)
        except NotAdmissible:
            decision = yield from self.otherwise.plan(query)
        return decision


class Policies:
    """The model names that clients may ask for, and the policy behind each.

    Raises BadConfig where a policy cannot be built.
    """

    def __init__(self, config: Config) -> None:
        if not config.policies:
            raise BadConfig("there is no policy to serve: add one under `by_name:`")
        self._routers: dict[Path, Router] = {}
        self.experts = tuple(entry.name for entry in config.experts)
        self._latency = {e.name: e.latency for e in config.experts if e.latency is not None}
        self.by_name = {
            name: self._build(name, policy, config.folder)
            for name, policy in config.policies.items()
        }
        self.default = config.default_policy or next(iter(self.by_name))

    def names(self) -> list[str]:
        """What `/v1/models` lists: policies first."""
        return ["auto", *(f"{PREFIX}{policy}" for policy in self.by_name), *self.experts]

    def find(self, model: str | None) -> Policy:
        """The policy behind a name; raises BadRequest (404) naming those that exist."""
        name = model or ""
        if name in AUTO:
            return self.by_name[self.default]
        if name.removeprefix(PREFIX) in self.by_name:
            return self.by_name[name.removeprefix(PREFIX)]
        if name in self.experts:
            return Policy(DIRECT, Fixed(name))
        if like_routellm := ROUTELLM.fullmatch(name):
            return self._at_threshold(name, like_routellm["name"], like_routellm["threshold"])
        raise self._unknown(name)

    def _at_threshold(self, model: str, name: str, written: str) -> Policy:
        """RouteLLM's names: threshold t spends at most the share 1 − t of the dearest expert.

        There, too, 0 asks the strong model always and 1 never. Where 1 − t is less than the
        cheapest point of the frontier spends, that point is it.
        """
        policy = self.by_name.get(self.default if name in ROUTELLM_NAMES else name)
        if policy is None or policy.router is None:
            raise self._unknown(model)
        threshold = float(written)
        if threshold > 1:
            raise BadRequest(f"threshold {written} of '{model}' is not within 0 and 1", "model")
        router = policy.router
        least = min(point.cost_fraction for point in router.frontier)
        point = router.at(max_cost_fraction=max(1 - threshold, least))
        return Policy(
            policy.name, router.strategy_at(point), policy.fallback, router=router, point=point
        )

    def _unknown(self, model: str) -> BadRequest:
        known = ", ".join(self.names())
        message = f"model '{model[:100]}' does not exist here: ask for one of {known}"
        return BadRequest(message, "model", status=404, code="model_not_found")

    def _build(self, name: str, policy: PolicyConfig, folder: Path) -> Policy:
        try:
            router = self._router(folder / policy.router) if policy.router else None
            if policy.latency_price and router and not router.knows_latency:
                raise BadInput(
                    "latency_price weighs seconds, and no expert's are known: give experts a"
                    " `latency:`, or fit on a table with latency::EXPERT"
                )
            goal = {key: getattr(policy, key) for key in GOALS if getattr(policy, key) is not None}
            point = router.at(**goal) if router and goal else None
            strategy = (
                router.strategy_at(point) if router and point else build(policy.spec(), router)
            )
        except BadInput as error:
            raise BadConfig(f"policy '{name}': {error}") from error
        hurry = policy.latency_price or 0.0
        return Policy(name, strategy, tuple(policy.fallback), router, point, hurry)

    def _router(self, folder: Path) -> Router:
        """Policies that name the same folder share one router."""
        if folder not in self._routers:
            router = Router.load(folder).with_latency(self._latency)
            router.predict([Query.of("")])  # what it refers to is loaded now, or missed now
            self._routers[folder] = router
        return self._routers[folder]
