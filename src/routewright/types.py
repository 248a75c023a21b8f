"""The nouns: Query ▶ Prediction ▶ Ask ▶ Answer ▶ Decision ▶ Outcome, and the Expert asked.

Every value here is frozen and does no I/O. Money is in US$, time in seconds, text is counted
in tokens. Unknown numbers are NaN (arrays) or None (fields), never a plausible guess.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]
Json: TypeAlias = Any  # what json.dumps takes; spelling the recursion out helps nobody
Message: TypeAlias = Mapping[str, Any]  # one OpenAI chat message

DataClass = Literal["public", "internal", "restricted"]
DATA_CLASSES: tuple[DataClass, ...] = ("public", "internal", "restricted")
AskKind = Literal["answer", "verify", "judge"]
Status = Literal["ok", "failed", "cancelled", "deferred"]


@dataclass(frozen=True)
class Launch:
    """How we start an expert's server and keep it running; see `experts/launch.py`."""

    command: tuple[str, ...]  # stays in the foreground
    folder: str = "."  # where it runs; its record and log lie in .routewright/experts/ there
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # added to ours
    start: Literal["demand", "serve"] = "demand"
    ready: str | None = None  # the path that answers 200 once it can; None: see launch.PATHS
    patience: float = 600.0  # seconds until it must be ready
    wait: float = 30.0  # seconds that a request waits for that
    idle: float | None = None  # seconds without a request after which it is stopped
    restarts: int = 3  # after crashes, one after another
    grace: float = 10.0  # seconds from asking it to end to killing it


@dataclass(frozen=True)
class Expert:
    """A model we can ask: where it lives, what it costs, what it can do, what it may see.

    Prices are US$ per million tokens. `data_classes` names every class of text that may reach
    it; an expert without an entry for a class never sees such a query.

    >>> import routewright as rw
    >>> large = rw.Expert("large", model="gpt-4o", input_per_mtok=2.5, output_per_mtok=10.0)
    >>> f"${large.price(input_tokens=1000, output_tokens=200):.4f}"
    '$0.0045'
    """

    name: str
    model: str = ""  # the upstream's own name for it; empty: `name`
    provider: str = "openai"
    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    input_per_mtok: float = 0.0
    cached_input_per_mtok: float | None = None  # None: as input_per_mtok
    output_per_mtok: float = 0.0
    context_window: int | None = None  # tokens; None: unknown, never a reason to reject
    capabilities: frozenset[str] = frozenset()
    data_classes: frozenset[str] = frozenset({"public"})
    region: str | None = None
    latency: float | None = None  # seconds a typical answer takes
    timeout: float = 60.0  # seconds until an answer must be complete
    retries: int = 2  # further tries after a failure before the first byte
    verify_prompt: str | None = None  # overrides prompts.VERIFY for this expert
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # sent every time
    launch: Launch | None = None  # None: somebody else runs it

    def price(self, input_tokens: float, output_tokens: float, cached_tokens: float = 0) -> float:
        """US$ for a call; `cached_tokens` is the part of `input_tokens` read from a cache."""
        cached = self.cached_input_per_mtok
        cached = self.input_per_mtok if cached is None else cached
        fresh = input_tokens - cached_tokens
        dollars = (
            fresh * self.input_per_mtok
            + cached_tokens * cached
            + output_tokens * self.output_per_mtok
        )
        return dollars / 1e6


@dataclass(frozen=True)
class Query:
    """What is asked, and within which limits it may be answered.

    `price` is λ, the price of quality: how much expected quality (0..1) one US$ must buy.
    0 asks for the best answer whatever it costs. None leaves λ to the policy. `latency_price` is
    μ, how much expected quality one second less must buy; None leaves that to the policy too.

    >>> import routewright as rw
    >>> query = rw.Query.of("What is 2 + 2?", data_class="restricted", max_cost=0.001)
    >>> query.text, query.data_class
    ('What is 2 + 2?', 'restricted')
    """

    messages: tuple[Message, ...]
    id: str = ""
    domain: str | None = None
    tags: tuple[str, ...] = ()
    data_class: DataClass = "public"
    needs: frozenset[str] = frozenset()  # capabilities: tools, vision, json
    region: str | None = None
    max_cost: float | None = None  # US$, everything spent on the way included
    min_quality: float | None = None  # 0..1, as predicted
    max_latency: float | None = None  # seconds until the answer is complete
    price: float | None = None
    latency_price: float | None = None
    allowed: frozenset[str] | None = None  # experts, set by the loops and by keys; None: all
    options: Mapping[str, Any] = field(default_factory=dict)  # temperature, max_tokens, tools, …

    @classmethod
    def of(cls, text: str, **limits: Any) -> Query:
        """A query with one user message.

        >>> Query.of("What is 2 + 2?", domain="maths").text
        'What is 2 + 2?'
        """
        return cls(messages=({"role": "user", "content": text},), **limits)

    @cached_property
    def text(self) -> str:
        """What an encoder reads: the last user turn."""
        for message in reversed(self.messages):
            if message.get("role") == "user":
                return _whole(content_text(message))
        return self.full_text

    @cached_property
    def full_text(self) -> str:
        """Everything that is sent, for counting tokens."""
        return _whole("\n".join(content_text(message) for message in self.messages))

    @cached_property
    def input_tokens(self) -> int:
        """Tokens of the whole conversation, estimated at four characters each."""
        return math.ceil(len(self.full_text) / 4)

    @cached_property
    def lot(self) -> float:
        """A number in [0, 1) drawn from the text: mixing is random over queries, yet repeatable."""
        digest = hashlib.blake2b(self.full_text.encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") >> 11) / 2**53

    def permits(self, expert: str) -> bool:
        return self.allowed is None or expert in self.allowed


def _whole(text: str) -> str:
    """JSON may carry half a surrogate pair; no encoder can read one."""
    return text.encode("utf-8", "replace").decode()


def content_text(message: Message) -> str:
    """The text of a chat message, whose content may be a string, a list of parts, or absent."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(str(part["text"]) for part in parts if part.get("text"))


@dataclass(frozen=True)
class Prediction:
    """Believed quality, cost and latency of every expert; arrays shaped (..., experts)."""

    experts: tuple[str, ...]
    quality: Array  # mean, 0..1
    spread: Array  # standard deviation of our belief about that mean
    cost: Array  # US$
    latency: Array  # seconds, NaN where nothing is known
    trust: Array | None = None  # (...), how familiar the query is: 1, falling to 0 far away
    context: Array | None = None  # (..., c), facts of the query that weigh answers: domain, form
    calibrate: Callable[[Array], Array] | None = None  # quality ▶ what is reported of it

    @property
    def chance(self) -> Array:
        """`quality` calibrated: for people, and for limits on quality. Choices are made by
        `quality` itself, whose differences between experts are the better ones."""
        return self.quality if self.calibrate is None else self.calibrate(self.quality)

    def take(self, rows: Any) -> Prediction:
        """The rows of a batch, in the same way as NumPy indexing."""
        return replace(
            self,
            quality=self.quality[rows],
            spread=self.spread[rows],
            cost=self.cost[rows],
            latency=self.latency[rows],
            trust=None if self.trust is None else self.trust[rows],
            context=None if self.context is None else self.context[rows],
        )


@dataclass(frozen=True)
class Ask:
    """Ask this expert this kind of thing.

    `final` promises that the answer is the one the client gets, so its text may be streamed.
    `of` is the answer that a verification or a judgement is about; `samples` how many verdicts a
    verification draws, in one request where the provider can. A judge is sent `prompt`; what its
    reply means is for whoever asked to say. An answer that opens with one of `unless` is none: it
    comes back with the status "deferred", breaks the promise of `final`, and none of it is
    streamed. `max_cost` and `max_latency` are this ask's share of what the query may still take;
    the loops set them, whatever a strategy says.

    >>> import routewright as rw
    >>> ask = rw.Ask("small")
    >>> check = rw.Ask("small", "verify", of=rw.Answer("small", "4"))
    >>> ask.kind, check.kind
    ('answer', 'verify')
    """

    expert: str
    kind: AskKind = "answer"
    of: Answer | None = None
    final: bool = False
    sample: int = 0  # tells k samples of the same ask apart
    samples: int = 1
    prompt: str | None = None  # what a judge reads in place of the conversation
    unless: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)  # sent over all others
    max_cost: float | None = None  # US$; None: no limit
    max_latency: float | None = None  # seconds; None: no limit

    def defers(self, text: str) -> bool | None:
        """Whether an answer that begins so is deferred; None: more of it must be heard.

        >>> ask = Ask("small", unless=("<DEFER>",))
        >>> ask.defers(" <DEFER>"), ask.defers("<D"), ask.defers("<div>")
        (True, None, False)
        """
        said = text.lstrip()
        if any(said.startswith(tag) for tag in self.unless):
            return True
        return None if any(tag.startswith(said) for tag in self.unless) else False

    def mark_deferred(self, answer: Answer) -> Answer:
        """The answer, marked if it is deferred: it opens with a tag, or was cut off within one."""
        cut = answer.finish_reason == "length" and bool(answer.text.strip())
        deferred = self.defers(answer.text)
        return (
            replace(answer, status="deferred") if deferred or (deferred is None and cut) else answer
        )


class Committee(tuple[Ask, ...]):
    """Asks that run side by side until `enough` of their answers are in.

    `enough` sees the answers that have arrived, in order of arrival. Once it is true the
    latecomers are cancelled; what they had cost by then is still counted. A plain tuple of
    asks is a committee that waits for everyone.

    >>> import routewright as rw
    >>> class FirstTwo:
    ...     def plan(self, query):
    ...         asks = [rw.Ask(expert) for expert in ("small", "middle", "large")]
    ...         answers = yield rw.Committee(asks, enough=lambda answers: len(answers) == 2)
    ...         return rw.Decision(next(answer for answer in answers if answer.status == "ok"))
    >>> seconds = {"small": 0.4, "middle": 0.2, "large": 3.0}
    >>> record = {name: rw.Answer(name, "4", latency=s) for name, s in seconds.items()}
    >>> rw.replay(FirstTwo(), rw.Query.of("What is 2 + 2?"), record).path
    'small>middle>large:cancelled'
    """

    enough: Callable[[tuple[Answer, ...]], bool] | None

    def __new__(
        cls,
        asks: Iterable[Ask],
        enough: Callable[[tuple[Answer, ...]], bool] | None = None,
    ) -> Committee:
        committee = super().__new__(cls, tuple(asks))
        committee.enough = enough
        return committee


@dataclass(frozen=True)
class Answer:
    """What one expert said, and what saying it took.

    `status` is "ok" for an answer that arrived. A member of a committee that could not answer has
    "failed", and `reason` says why; a latecomer has "cancelled"; an answer that leaves the query
    to another expert (see `Ask.unless`) has "deferred". `score` is known only for recorded
    outcomes.

    >>> import routewright as rw
    >>> answer = rw.Answer("small", "4", cost=0.0002, latency=0.3)
    >>> answer.status, rw.Answer("small", status="failed", reason="timed out").status
    ('ok', 'failed')
    """

    expert: str
    text: str = ""
    kind: AskKind = "answer"
    cost: float = 0.0  # US$
    latency: float = math.nan  # seconds
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    confidence: float | None = None  # 0..1, of a verification
    score: float | None = None  # 0..1
    reward: float | None = None  # of a recorded judgement, on the reward model's own scale
    finish_reason: str = "stop"
    message: Message | None = None  # the upstream's whole assistant message, tool calls included
    logprobs: tuple[float, ...] | None = None
    choices: tuple[str, ...] = ()  # every text, where more than one was asked for
    status: Status = "ok"
    reason: str = ""  # why it failed
    estimated: bool = False  # tokens were counted by us: the upstream did not say

    @property
    def logprob(self) -> float:
        """Mean log-probability of the answer's tokens, in nats; NaN where it is not known."""
        return math.fsum(self.logprobs) / len(self.logprobs) if self.logprobs else math.nan


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed answer; `message` is the upstream's own delta object.

    `whole`: it is all of an answer that was kept after it had been looked at.
    """

    expert: str
    text: str
    message: Message
    finish_reason: str | None = None
    whole: bool = False


@dataclass(frozen=True)
class Decision:
    """Which answer the client gets, why, and everything that was paid for on the way.

    A strategy returns `Decision(answer, because=...)`; the loops fill in the rest.

    >>> import routewright as rw
    >>> small, large = rw.Answer("small", "5", cost=0.001), rw.Answer("large", "4", cost=0.02)
    >>> decision = rw.Decision(large, because="small was unsure", spent=(small, large))
    >>> decision.path, decision.cost
    ('small>large', 0.021)
    """

    answer: Answer
    because: str = ""
    spent: tuple[Answer, ...] = ()  # every answer paid for, in order, the chosen one included
    rejected: Mapping[str, str] = field(default_factory=dict)  # expert ▶ reason
    prediction: Prediction | None = None

    @property
    def cost(self) -> float:
        """US$ for everything asked: failed tries, verification and committee members too."""
        return total_cost(self.spent)

    @property
    def path(self) -> str:
        """The way taken, as in `small>verify:0.31>large` or `small:deferred>large`."""
        return path_of(self.spent)


def total_cost(spent: Iterable[Answer]) -> float:
    """US$ that some answers have cost together."""
    return math.fsum(answer.cost for answer in spent)


def path_of(spent: Iterable[Answer]) -> str:
    """The way that leads over some answers, whether or not it ended in a decision.

    >>> path_of([Answer("small", status="failed"), Answer("large")])
    'small:failed>large'
    """
    return ">".join(map(_step, spent))


def _step(answer: Answer) -> str:
    if answer.status != "ok":
        return f"{answer.expert}:{answer.status}"
    if answer.kind == "answer":
        return answer.expert
    said = answer.reward if answer.kind == "judge" else answer.confidence
    sure = "?" if said is None else f"{said:.2f}"
    return f"{answer.kind}:{sure}"


@dataclass(frozen=True)
class Outcome:
    """A scored answer: one (query, expert) cell of the table we train on and evaluate with."""

    id: str
    expert: str
    prompt: str
    score: float  # 0..1, NaN if unknown
    cost: float = math.nan  # US$
    domain: str | None = None
    split: str | None = None
    answer: str | None = None
    verify: float | None = None  # 0..1
    reward: float | None = None
    latency: float | None = None  # seconds
    out_tokens: float | None = None


Plan: TypeAlias = Generator[Ask | tuple[Ask, ...], Any, Decision]  # Any: Answer, or a tuple of them


class Strategy(Protocol):
    """Decides, step by step, whom to ask; does no I/O of its own.

    `plan` is a generator: it yields asks, is sent answers and returns a decision. A failed ask
    raises UpstreamError at the `yield`; an ask that the query's limits forbid raises NotAdmissible.

    >>> import routewright as rw
    >>> class Climb:
    ...     def plan(self, query):
    ...         answer = yield rw.Ask("small")
    ...         if answer.text == "I do not know":
    ...             answer = yield rw.Ask("large", final=True)
    ...         return rw.Decision(answer, because=f"{answer.expert} knew")
    >>> record = {"small": rw.Answer("small", "I do not know"), "large": rw.Answer("large", "4")}
    >>> rw.replay(Climb(), rw.Query.of("What is 2 + 2?"), record).answer.text
    '4'
    """

    def plan(self, query: Query) -> Plan: ...
