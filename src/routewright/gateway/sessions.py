"""The conversations of clients: who answers them, what a switch costs, how secret they are.

A conversation is known by the session that its client names and by its first turn. While it waits
for the results of tools, the expert that asked for them goes on. Between two turns the policy
chooses again, and the input that the present expert still has in its cache counts in dollars. The
strictest data class of its texts holds for all that follows.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from starlette.datastructures import Headers

from routewright import turns
from routewright.drive import at_once
from routewright.experts.limits import strictest
from routewright.experts.providers._messages_request import tool_id
from routewright.gateway.accounting import LONG
from routewright.gateway.body import ChatRequest
from routewright.gateway.policies import DIRECT, Policy, WithinLimits
from routewright.gateway.records import Records
from routewright.gateway.turn_price import TurnCost
from routewright.gateway.windows import Windows
from routewright.records.keys import Key
from routewright.router.predicted import PredictedRouter
from routewright.strategies._fixed_mix import unfamiliar
from routewright.strategies.fallback import with_fallback
from routewright.strategies.single import Single
from routewright.types import (
    DATA_CLASSES,
    Answer,
    Array,
    Ask,
    Conversation,
    DataClass,
    Decision,
    Expert,
    Message,
    Plan,
    Prediction,
    Query,
    Strategy,
    content_text,
)

HEADERS = (  # in which clients name a session
    *("x-routewright-session", "x-session-id", "x-claude-code-session-id"),
    *("session_id", "session-id", "x-session-affinity", "conversation_id"),
)
NAME = re.compile(r"[\w.:/+=@-]{1,128}", re.ASCII)
MOST = 20_000  # conversations in memory; the store has all of them
MOST_CALLS = 64  # tool calls of a conversation whose makers are remembered
LEAST_PRICE = 1e-9  # λ in place of 0: it changes no choice, and can be divided by
LEAST_CACHED = 1024  # tokens; vendors cache no shorter input
AGAIN = 10  # turns for which an expert uses what it has read at once; see dev/LOG.md
SURE_SECONDS = 60.0  # that every cache lasts; what it saves is measured on asks that follow so soon


@dataclass
class Cache:
    """What one expert may still have cached of a conversation."""

    at: float  # of its last answer, in seconds since 1970
    tokens: int  # of that answer, its input included
    share: float = 1.0  # of what could be cached, the part that was at the last time


@dataclass
class Session:
    """What is known of a conversation; `state` is what the store keeps of it."""

    id: str
    expert: str | None = None  # who answered last
    others: int = 0  # messages of the assistant before its own
    data_class: DataClass = "public"
    turns: int = 0
    asks: int = 0  # answers; more than turns where tools are used
    caches: dict[str, Cache] = field(default_factory=dict)
    calls: dict[str, str] = field(default_factory=dict)  # id of a tool call ▶ who made it

    def state(self) -> dict[str, Any]:
        fields = {name: getattr(self, name) for name in ("expert", "others", "data_class")}
        caches = {name: [c.at, c.tokens, c.share] for name, c in self.caches.items()}
        counts = {"turns": self.turns, "asks": self.asks}
        return {**fields, **counts, "caches": caches, "calls": self.calls}

    @classmethod
    def of(cls, name: str, state: Mapping[str, Any]) -> Session:
        caches = {expert: Cache(*values) for expert, values in state["caches"].items()}
        return cls(name, **{**state, "caches": caches})


@dataclass
class Place:
    """Where a request stands: the session that its client named, and its conversation."""

    session: str | None  # None: the client named none
    ids: tuple[str, ...]  # of its conversation and, if the client named one, of its session
    states: dict[str, Session]
    messages: tuple[Message, ...]
    default: DataClass

    @cached_property
    def known(self) -> Session | None:
        """The state of the conversation, or else of the whole session; None if both are new."""
        return next((self.states[name] for name in self.ids if name in self.states), None)

    @cached_property
    def written(self) -> int:
        """The messages of the assistant so far."""
        return sum(message.get("role") == "assistant" for message in self.messages)

    @property
    def in_loop(self) -> bool:
        """Whether the request brings the results of tools that an expert has asked for."""
        return bool(self.calls)

    @cached_property
    def calls(self) -> tuple[str, ...]:
        """The ids of the tool calls in the last message of the assistant."""
        last = next((m for m in reversed(self.messages) if m.get("role") == "assistant"), {})
        calls = last.get("tool_calls")
        calls = calls if isinstance(calls, list) else []
        return tuple(_call_id(call) for call in calls if isinstance(call, Mapping))

    @cached_property
    def maker(self) -> str | None:
        """The expert that asked for the tools whose results the request brings, if it is known."""
        for name in self.ids:
            for call in self.calls if name in self.states else ():
                if maker := self.states[name].calls.get(call):
                    return maker
        return self.known.expert if self.known and self.in_loop else None

    def data_class(self, stated: DataClass) -> DataClass:
        """The strictest class of the session's texts."""
        classes = (state.data_class for state in self.states.values())
        return strictest([stated, self.default, *classes])

    def conversation(self) -> Conversation | None:
        """What the experts' client must know; None for a first request that names no session."""
        if not (self.written or self.session):
            return None
        name = self.session or _first_text(self.messages)  # a first request draws by its text
        state = self.known
        if state is None or not self.written:
            return Conversation(name)
        expert, others = state.expert, state.others
        if (maker := self.maker) is not None and maker != expert:
            expert, others = maker, self.written - 1
        return Conversation(name, expert, others)


class Sessions:
    """The conversations in memory, the latest last; the store has those of all gateways."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self._known: OrderedDict[str, Session] = OrderedDict()

    async def place(
        self, headers: Headers, request: ChatRequest, key: Key | None, classes: Sequence[DataClass]
    ) -> Place:
        """Where a request stands.

        `classes` are the data classes that experts serve: if the state of a session cannot be
        read, its texts may be of any of them, and count as the strictest.
        """
        session, query = name_of(headers, request), request.query
        run = asyncio.to_thread if query.input_tokens > LONG else at_once
        ids = await run(_ids, session, query, key)
        begins = session is None and not any(m.get("role") == "assistant" for m in query.messages)
        states, default = self._in_memory(ids), DATA_CLASSES[0]
        if (
            not begins
            and self.records.store is not None
            and (len(states) < len(ids) or self.records.replicas > 1)
        ):
            stored = await self.records.sessions(ids)
            if stored is None:  # the store is down
                default = default if states else strictest(classes)
            else:
                newer = {name: Session.of(name, state) for name, state in stored.items()}
                states |= newer
                for state in newer.values():
                    self._remember(state)
        return Place(session, ids, {} if begins else states, query.messages, default)

    def raised(self, place: Place, data_class: DataClass) -> None:
        """Notes that a session holds a text of that class, before it is known who answers."""
        for name in place.ids:
            state = self._known.get(name) or place.states.get(name) or Session(name)
            if strictest([state.data_class, data_class]) != state.data_class:
                self._write(replace(state, data_class=strictest([state.data_class, data_class])))

    def answered(self, place: Place, query: Query, decision: Decision) -> None:
        """Notes who answered, what its cache may hold, and which tools it asked for."""
        answer = decision.answer
        if answer.kind != "answer":
            return
        for name in place.ids:
            before = self._known.get(name) or place.states.get(name) or Session(name)
            self._write(_after(before, place, query, answer))

    def _in_memory(self, ids: Sequence[str]) -> dict[str, Session]:
        return {name: self._known[name] for name in ids if name in self._known}

    def _write(self, session: Session) -> None:
        self._remember(session)
        self.records.keep_session(session.id, session.state())

    def _remember(self, session: Session) -> None:
        self._known[session.id] = session
        self._known.move_to_end(session.id)
        while len(self._known) > MOST:
            self._known.popitem(last=False)


def name_of(headers: Headers, request: ChatRequest) -> str | None:
    """The session that a client names, in a header or in its body; None if it names none."""
    named = [headers.get(name, "") for name in HEADERS]
    options = request.query.options
    metadata = options.get("metadata")
    user = metadata.get("user_id") if isinstance(metadata, Mapping) else None
    native = request.query.native.body if request.query.native else {}
    user = user or (native.get("metadata") or {}).get("user_id")
    named += [name for name in (user, options.get("prompt_cache_key")) if isinstance(name, str)]
    for name in filter(None, named):
        if NAME.fullmatch(name):
            return name
        if len(name) <= 4096:  # Claude Code writes an object into `user_id`
            return hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=16).hexdigest()
    return None


def _ids(session: str | None, query: Query, key: Key | None) -> tuple[str, ...]:
    """The hashes by which the conversation and the session of a request are known."""
    owner = key.name if key else ""
    begin = turns.opening((str(m.get("role")), content_text(m)) for m in query.messages)
    conversation = _hash("conversation", owner, session or "", begin)
    return (conversation,) if session is None else (conversation, _hash("session", owner, session))


def _first_text(messages: Sequence[Message]) -> str:
    """The text of the request with which a conversation has begun."""
    roles = [message.get("role") for message in messages]
    end = roles.index("user") + 1 if "user" in roles else len(messages)
    return "\n".join(content_text(message) for message in messages[:end])


def _hash(*parts: str) -> str:
    text = "\0".join(parts).encode("utf-8", "replace")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def _call_id(call: Mapping[str, Any]) -> str:
    """The id of a tool call, as clients of every protocol know it."""
    return tool_id(call.get("id"))[:200]


def _after(before: Session, place: Place, query: Query, answer: Answer) -> Session:
    """The state of a conversation after an answer."""
    now, caches = time.time(), dict(before.caches)
    tokens = answer.input_tokens + answer.output_tokens
    known = caches.get(answer.expert)
    share = 1.0 if known is None else known.share
    is_told = known is not None and now - known.at < SURE_SECONDS and not answer.estimated
    if known is not None and is_told and known.tokens >= LEAST_CACHED:
        share = min(1.0, answer.cached_tokens / known.tokens)
    caches[answer.expert] = Cache(now, tokens, share)
    made = (answer.message or {}).get("tool_calls")
    made = made if isinstance(made, list | tuple) else ()
    calls = before.calls | {
        _call_id(call): answer.expert
        for call in made
        if isinstance(call, Mapping) and call.get("id")
    }
    same = answer.expert == before.expert
    return Session(
        before.id,
        answer.expert,
        before.others if same else place.written,
        strictest([before.data_class, query.data_class]),
        before.turns + (0 if place.in_loop else 1),
        before.asks + 1,
        caches,
        dict(list(calls.items())[-MOST_CALLS:]),
    )


# --- the choice ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Stay:
    """Ask the expert that has answered so far."""

    light: ClassVar[bool] = True

    expert: str
    reason: str

    def plan(self, query: Query) -> Plan:
        answer = yield Ask(self.expert, final=True)
        return Decision(answer, because=self.reason)


def strategy_for(
    policy: Policy,
    query: Query,
    place: Place,
    experts: Mapping[str, Expert],
    windows: Windows,
) -> Strategy:
    """The strategy of a policy for a request that may continue a conversation.

    May run a prediction: for a thread. Raises BadRequest as `Policy.strategy_for` does.
    """
    if policy.name == DIRECT:
        return policy.strategy_for(query)
    usual = _in_proportion(policy, query).strategy_for(query)
    special = _special(policy, query, place, experts, windows)
    if special is None:
        return usual
    return with_fallback(WithinLimits(special, usual), policy.fallback)


def needs_thread(policy: Policy, query: Query, place: Place, windows: Windows) -> bool:
    """Whether `strategy_for` may run a prediction."""
    if policy.router is None or policy.name == DIRECT:
        return False
    return bool(place.written or windows.windows or _history(query) >= LEAST_CACHED)


def _special(
    policy: Policy,
    query: Query,
    place: Place,
    experts: Mapping[str, Expert],
    windows: Windows,
) -> Strategy | None:
    """The strategy that the conversation or a window demands; None if there is none."""
    state, maker = (place.known if place.written else None), place.maker
    last = state.expert if state else None
    if policy.sticky != "none" and maker is not None and policy.may_ask(maker):
        return Stay(maker, f"{maker} asked for the tools")
    if policy.sticky == "always" and last is not None and policy.may_ask(last):
        return Stay(last, f"{last} answers the session")
    if policy.sticky != "session":
        state = None
    has_window = any(name in windows.windows for name in policy.experts)
    if (state and _alive(state, experts)) or has_window:
        return _priced(policy, query, state or Session(""), experts, windows)
    return None


def _in_proportion(policy: Policy, query: Query) -> Policy:
    """A policy whose budget is a share of the dearest expert's cost, for a long conversation.

    With every earlier message all experts cost more, the dearest one too, so that the share says
    nothing about them: the choice predicts an answer to the last turns alone.
    """
    router, point = policy.router, policy.point
    if router is None or point is None or not policy.relative or query.price is not None:
        return policy
    if _history(query) < LEAST_CACHED:
        return policy
    belief = router.predict([_alone(query)])
    return replace(policy, router=PredictedRouter.of(router, [query], belief)).at(point)


def _alone(query: Query) -> Query:
    """The turns that a choice reads, without the other messages."""
    return replace(query, messages=({"role": "user", "content": query.excerpt},))


def _history(query: Query) -> int:
    """The tokens of the messages that a choice does not read, estimated."""
    return max(0, query.input_tokens - len(query.excerpt) // 4)


def _priced(
    policy: Policy,
    query: Query,
    state: Session,
    experts: Mapping[str, Expert],
    windows: Windows,
) -> Strategy | None:
    """The choice of one expert by predicted quality and by what the rest of the conversation costs
    with it; None if the policy does not predict the query.

    It chooses one expert for the whole turn: to let a cheaper one try first would cost the whole
    input again.
    """
    router = policy.router
    price = policy.point.price if policy.point else getattr(policy.strategy, "price", None)
    if router is None or price is None:
        return None
    belief = router.predict([_alone(query)])
    if belief.trust is not None and bool(unfamiliar(belief.trust)[0]):
        return None  # the mix decides, and its draw is that of the conversation
    one = belief.take(0)
    price = max(price if query.price is None else query.price, LEAST_PRICE)
    turn = costs(one, query, state, experts, router.average_cost if policy.relative else None)
    if policy.turns is not None and policy.point is not None and query.price is None:
        share = policy.point.cost_fraction
        steered = policy.turns.price(one.quality, turn, share, query.lot)
        price = price if steered is None else max(steered, LEAST_PRICE)
    cost = turn.cost
    must = windows.worth(one.experts, one.quality - price * cost)
    if not must.any() and not _alive(state, experts):
        return None
    known = PredictedRouter.of(router, [query], replace(belief, cost=(cost + must / price)[None]))
    return Single(known, price, policy.latency_price)


def _alive(state: Session, experts: Mapping[str, Expert]) -> dict[str, int]:
    """The tokens that experts may still have cached of a conversation."""
    now, alive = time.time(), {}
    for name, cache in state.caches.items():
        expert = experts.get(name)
        if expert is None or expert.cached_input_per_mtok is None:
            continue
        tokens = int(cache.tokens * cache.share)
        if now - cache.at < expert.cache_seconds and tokens >= LEAST_CACHED:
            alive[name] = tokens
    return alive


def costs(
    belief: Prediction,
    query: Query,
    state: Session,
    experts: Mapping[str, Expert],
    usual: Array | None = None,
) -> TurnCost:
    """What the next turn of a conversation costs with each expert.

    `belief` is about the turns that a choice reads alone. To their cost come the earlier messages
    in each of the asks that a turn takes, at the price of cached input, and what an expert has yet
    to read: that is paid once and serves later turns too, so that a turn bears one part in AGAIN.

    `usual` (e,) is what each expert's answers cost on average, in US$. With it, the costs that the
    choice counts are brought back to that size, because the policy's budget is a share of what the
    dearest expert would cost all along, which grows with the conversation as well.
    """
    alive = _alive(state, experts)
    history = _history(query)
    asks = max(1.0, state.asks / max(state.turns, 1))  # of a turn
    latest = history // (state.turns + 1)  # tokens that a turn adds
    repeated, unread, added = np.zeros((3, len(belief.experts)))
    for m, name in enumerate(belief.experts):
        expert = experts.get(name) or Expert(name)
        cached = min(alive.get(name, 0), history)
        repeated[m] = expert.price(history, 0, cached_tokens=history)
        unread[m] = expert.price(history, 0, cached_tokens=cached) - repeated[m]
        added[m] = expert.price(latest, 0) - expert.price(latest, 0, cached_tokens=latest)
    known = asks * (belief.cost + repeated)
    means = belief.cost if usual is None else usual
    dearest = int(np.nanargmax(means))
    everything = asks * (means[dearest] + repeated[dearest])
    scale = means[dearest] / everything if usual is not None and everything > 0 else 1.0
    cost = (known + unread / AGAIN) * scale
    return TurnCost(cost, known + unread, float(known[dearest] + added[dearest]))
