"""The seven nouns: Query ▶ Prediction ▶ Ask ▶ Answer ▶ Decision ▶ Outcome, and Expert.

Every value is frozen and does no I/O. Money is in US$, time in seconds, the length of texts in
tokens. Unknown numbers are NaN in arrays and None in fields, never a guess.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from routewright import turns

T = TypeVar("T")
Array: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.intp]
Json: TypeAlias = Any  # a value that json.dumps can write; the recursive type would not help
Message: TypeAlias = Mapping[str, Any]  # one OpenAI chat message

DataClass = Literal["public", "internal", "restricted"]
MAX_EXCERPT = 32_000  # characters of a prompt that predictions read
DATA_CLASSES: tuple[DataClass, ...] = ("public", "internal", "restricted")
AskKind = Literal["answer", "verify", "judge", "embed"]
Status = Literal["ok", "failed", "cancelled", "deferred"]
Unlike = Literal["", "query", "answers"]  # what of a request was unlike the training rows

MIN_SILENCE = 60.0  # seconds that a stream may go without a byte unless the config says less


@dataclass(frozen=True)
class Launch:
    """How the server of an expert is started and kept running; see `experts/launch.py`."""

    command: tuple[str, ...]  # a process that stays in the foreground
    folder: str = "."  # its working directory; its record and log are in .routewright/experts/
    config: str = ""  # the config's file, relative to `folder`; empty: a config that is no file
    env: Mapping[str, str] = field(default_factory=dict, repr=False)  # added to the environment
    start: Literal["demand", "serve"] = "demand"
    ready: str | None = None  # the path that returns 200 when it is ready; None: launch.PATHS
    patience: float = 600.0  # seconds until it must be ready
    wait: float = 30.0  # seconds that a request waits until it is ready
    idle: float | None = None  # seconds without a request after which it is stopped
    restarts: int = 3  # crashes in a row after which it is restarted
    grace: float = 10.0  # seconds between asking it to end and killing it


@dataclass(frozen=True)
class Deployment:
    """One endpoint, or one key, of an expert's model. What it does not name is the expert's."""

    name: str = ""  # in the log; empty: its number
    base_url: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str | None] = field(default_factory=dict, repr=False)  # and the expert's
    weight: float = 1.0  # its share of the asks, relative to that of the others
    max_concurrency: int | None = None  # asks in progress there; None: no limit
    rpm: int | None = None  # requests per minute
    tpm: int | None = None  # input and output tokens per minute


@dataclass(frozen=True)
class Window:
    """What a subscription allows: so many requests or tokens in so many seconds."""

    seconds: float
    requests: int | None = None
    tokens: int | None = None


@dataclass(frozen=True)
class Expert:
    """A model that can be asked: its address, its prices, its capabilities and its limits.

    Prices are in US$ per million tokens. `data_classes` lists every class of text that may be sent
    to the expert; a query of another class never reaches it.

    >>> import routewright as rw
    >>> large = rw.Expert("large", model="gpt-4o", input_per_mtok=2.5, output_per_mtok=10.0)
    >>> f"${large.price(input_tokens=1000, output_tokens=200):.4f}"
    '$0.0045'
    """

    name: str
    model: str = ""  # the upstream's name of the model; empty: `name`
    provider: str = "openai"
    base_url: str | None = field(default=None, repr=False)  # its query may hold a key
    api_key: str | None = field(default=None, repr=False)
    input_per_mtok: float = 0.0
    cached_input_per_mtok: float | None = None  # None: as input_per_mtok
    cache_write_per_mtok: float | None = None  # None: as input_per_mtok
    cache_seconds: float = 300.0  # that it keeps an input from its last use
    output_per_mtok: float = 0.0
    context_window: int | None = None  # tokens; None: unknown, no query is too long
    capabilities: frozenset[str] | None = None  # None: unknown, so any query may need it
    data_classes: frozenset[str] = frozenset({"public"})
    region: str | None = None
    latency: float | None = None  # seconds of a typical answer
    timeout: float = 60.0  # seconds until an answer that is not streamed must be complete
    silence: float | None = None  # seconds of a stream without a byte; None: see longest_silence
    retries: int = 2  # further tries after a failure before the first byte
    verify_prompt: str | None = None  # overrides prompts.VERIFY for this expert
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)  # sent with every ask
    launch: Launch | None = None  # None: Routewright does not run its server
    headers: Mapping[str, str | None] = field(default_factory=dict, repr=False)  # None removes one
    max_tokens_field: str | None = None  # the endpoint's name of the output limit; None: by model
    developer_role: bool | None = None  # whether it knows that role of messages; None: by model
    max_concurrency: int | None = None  # asks in progress, others wait; None: no limit
    window: Window | None = None  # None: it may be asked as often as anybody likes
    proxy: str | None = field(default=None, repr=False)  # URL of the HTTP proxy; may hold a key
    deployments: tuple[Deployment, ...] = ()  # endpoints of the model; empty: `base_url` is the one

    def price(
        self,
        input_tokens: float,
        output_tokens: float,
        cached_tokens: float = 0,
        written_tokens: float = 0,
    ) -> float:
        """The US$ of one ask.

        `cached_tokens` of the `input_tokens` were read from a cache, and `written_tokens` of them
        were written to one.
        """
        cached, written = self.cached_input_per_mtok, self.cache_write_per_mtok
        cached = self.input_per_mtok if cached is None else cached
        written = self.input_per_mtok if written is None else written
        fresh = input_tokens - cached_tokens - written_tokens
        dollars = (
            fresh * self.input_per_mtok
            + cached_tokens * cached
            + written_tokens * written
            + output_tokens * self.output_per_mtok
        )
        return dollars / 1e6

    def highest_price(self, input_tokens: float, output_tokens: float) -> float:
        """The US$ of one ask at most: an input may be written to a cache, which may cost more."""
        written = self.price(input_tokens, output_tokens, written_tokens=input_tokens)
        return max(self.price(input_tokens, output_tokens), written)

    @property
    def longest_silence(self) -> float:
        """The seconds that a stream may go without a byte: `silence`, or half of a long timeout."""
        return max(MIN_SILENCE, self.timeout / 2) if self.silence is None else self.silence


@dataclass(frozen=True)
class Native:
    """A request as its client wrote it, for experts that speak the client's own protocol.

    `protocol` is "messages" (Anthropic) or "responses" (OpenAI). `body` is the request without the
    fields that the gateway reads itself. `lost` names what the messages and options of the Query,
    which are those of OpenAI chat completions, cannot carry of it.
    """

    protocol: str
    body: Mapping[str, Any]
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Conversation:
    """The conversation that a query continues, as far as it is known.

    `expert` wrote the messages of the assistant after the first `others` of them. What only their
    maker can read of messages, such as signed thoughts, is sent to nobody else.
    """

    id: str
    expert: str | None = None  # None: unknown
    others: int = 0


@dataclass(frozen=True)
class Query:
    """The messages to be answered, and the limits on the answer.

    `price` is λ, the price of quality: the expected quality (0..1) that one US$ must buy. 0
    requests the best answer at any cost. `latency_price` is μ, the price of latency: the expected
    quality that one second less must be worth. If either is None, the policy decides.

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
    max_cost: float | None = None  # US$ for all asks of the query
    min_quality: float | None = None  # 0..1, as predicted
    max_latency: float | None = None  # seconds until the answer is complete
    price: float | None = None
    latency_price: float | None = None
    allowed: frozenset[str] | None = None  # experts, set by the loops and by keys; None: all
    options: Mapping[str, Any] = field(default_factory=dict)  # temperature, max_tokens, tools, …
    native: Native | None = field(default=None, repr=False)  # None: it was OpenAI chat
    conversation: Conversation | None = None  # None: it continues none that is known

    @classmethod
    def of(cls, text: str, **limits: Any) -> Query:
        """A query with one user message.

        >>> Query.of("What is 2 + 2?", domain="maths").text
        'What is 2 + 2?'
        """
        return cls(messages=({"role": "user", "content": text},), **limits)

    @cached_property
    def text(self) -> str:
        """The last user message; the texts of all messages if there is none."""
        return _whole(self._last_user_text())

    @cached_property
    def excerpt(self) -> str:
        """What encoders and predictors read: the user's last `turns` (see `turns.last`) or, if they
        are longer than MAX_EXCERPT, the first and the last half of so many characters, on separate
        lines.

        >>> len(Query.of("word " * 1000).excerpt), len(Query.of("word " * 10_000).excerpt)
        (5000, 32001)
        """
        text = "\n".join(self.turns) or self._last_user_text()
        if len(text) > MAX_EXCERPT:
            text = text[: MAX_EXCERPT // 2] + "\n" + text[-(MAX_EXCERPT // 2) :]
        return _whole(text)

    @cached_property
    def turns(self) -> tuple[str, ...]:
        """The user's turns that a choice reads; none if no user says anything."""
        return turns.last((str(m.get("role")), content_text(m)) for m in self.messages)

    @cached_property
    def full_text(self) -> str:
        """The texts of all messages."""
        return _whole("\n".join(content_text(message) for message in self.messages))

    @cached_property
    def input_tokens(self) -> int:
        """The tokens of all messages, estimated at four characters per token."""
        lengths = [len(content_text(message)) + 1 for message in self.messages]
        return math.ceil(max(0, sum(lengths) - 1) / 4)

    @cached_property
    def lot(self) -> float:
        """A number in [0, 1) from a hash of the text, so that a mix is random but repeatable; all
        queries of a conversation have the same one."""
        key = b"routewright lot"  # apart from every other hash that splits queries
        text = self.full_text if self.conversation is None else self.conversation.id
        digest = hashlib.blake2b(text.encode(), digest_size=8, person=key).digest()
        return (int.from_bytes(digest, "big") >> 11) / 2**53

    def _last_user_text(self) -> str:
        for message in reversed(self.messages):
            if message.get("role") == "user":
                return content_text(message)
        return "\n".join(content_text(message) for message in self.messages)

    def permits(self, expert: str) -> bool:
        """Whether `allowed` is None or contains the expert."""
        return self.allowed is None or expert in self.allowed


def changed(value: T, **changes: Any) -> T:
    """A copy of a frozen dataclass with other values, as `dataclasses.replace` makes it, in a
    fraction of its time: it keeps what was derived from the fields, and checks nothing.

    So change no field from which something has been derived that may be read again.
    """
    copy = object.__new__(type(value))
    copy.__dict__.update(value.__dict__, **changes)
    return copy


def _whole(text: str) -> str:
    """The text without half surrogate pairs, which JSON may contain and no encoder can read."""
    return text.encode("utf-8", "replace").decode()


def content_text(message: Message) -> str:
    """The text of a chat message, whose content may be a string, a list of parts, or absent."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    return "\n".join(str(text) for text in texts if text)


@dataclass(frozen=True)
class Prediction:
    """The expected quality, cost and latency of every expert; arrays are (..., experts)."""

    experts: tuple[str, ...]
    quality: Array  # mean, 0..1
    spread: Array  # standard deviation of the belief about that mean
    cost: Array  # US$
    latency: Array  # seconds, NaN where unknown
    trust: Array | None = None  # (...), familiarity of the query: 1, falling to 0 far away
    context: Array | None = None  # (..., c), facts of the query for weighing answers: domain, form
    calibrate: Callable[[Array], Array] | None = None  # quality ▶ probability, see `chance`

    @property
    def chance(self) -> Array:
        """The calibrated quality, for reports and for limits on quality.

        Choices use `quality` itself, because its differences between experts are more accurate.
        """
        return self.quality if self.calibrate is None else self.calibrate(self.quality)

    def take(self, rows: Any) -> Prediction:
        """The rows of a batch that a NumPy index selects."""
        return changed(
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
    """One call to one expert, of one kind: `answer`, `verify`, `judge` or `embed`.

    `final` promises that the client gets the answer, so that its text may be streamed. `of` is the
    answer that a verification or a judgement is about. `samples` is the number of verdicts of a
    verification, which come from one request if the provider supports that. A judge reads
    `prompt`, and the caller interprets its reply. `unlike` is as in Decision. An answer that begins
    with one of the tags in `unless` defers: it gets the status "deferred", none of it is streamed,
    and `final` promises nothing about it. `max_cost` and `max_latency` are this ask's share of what
    the query may still spend; the loops set them and ignore the values of a strategy.

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
    sample: int = 0  # distinguishes several samples of the same ask
    samples: int = 1
    prompt: str | None = None  # what a judge reads instead of the conversation
    unless: tuple[str, ...] = ()
    unlike: Unlike = ""
    options: Mapping[str, Any] = field(default_factory=dict)  # override all other options
    max_cost: float | None = None  # US$; None: no limit
    max_latency: float | None = None  # seconds; None: no limit

    def defers(self, text: str) -> bool | None:
        """Whether an answer that begins with `text` defers; None if that is not clear yet.

        >>> ask = Ask("small", unless=("<DEFER>",))
        >>> ask.defers(" <DEFER>"), ask.defers("<D"), ask.defers("<div>")
        (True, None, False)
        """
        start = text.lstrip()
        if any(start.startswith(tag) for tag in self.unless):
            return True
        return None if any(tag.startswith(start) for tag in self.unless) else False

    def mark_deferred(self, answer: Answer) -> Answer:
        """The answer, with the status "deferred" if it begins with a tag or was cut off in one."""
        cut = answer.finish_reason == "length" and bool(answer.text.strip())
        deferred = self.defers(answer.text)
        return (
            replace(answer, status="deferred") if deferred or (deferred is None and cut) else answer
        )


class Committee(tuple[Ask, ...]):
    """Asks that run concurrently until `enough` of their answers have arrived.

    `enough` gets the answers that have arrived, in order of arrival. As soon as it returns True,
    the other asks are cancelled; their costs until then are counted. A plain tuple of asks is a
    committee that waits for all answers.

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
    """The reply of one expert to one ask, with its tokens, cost and latency.

    `status` is "ok" for an answer that arrived. For a member of a committee that could not answer
    it is "failed", with the `reason`; for a member that was too late it is "cancelled"; for an
    answer that leaves the query to another expert (see `Ask.unless`) it is "deferred". Only
    recorded outcomes have a `score`.

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
    reward: float | None = None  # of a recorded judgement, on the reward model's scale
    finish_reason: str = "stop"
    message: Message | None = None  # the upstream's whole assistant message, with tool calls
    logprobs: tuple[float, ...] | None = None
    choices: tuple[str, ...] = ()  # all texts, if more than one was requested
    status: Status = "ok"
    reason: str = ""  # of a failure
    estimated: bool = False  # whether tokens or cost are estimates: the upstream reported none
    # Fields of the upstream's reply that are passed on unread, in the shape of a chat completion.
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    # The upstream's reply as it wrote it, if it speaks the protocol of `Query.native`.
    native: Mapping[str, Any] | None = field(default=None, repr=False)
    lost: tuple[str, ...] = ()  # what of the request the expert's protocol could not carry
    error: Exception | None = field(default=None, repr=False, compare=False)  # of a failure

    @property
    def content(self) -> str:
        """What the answer says, as it is recorded and compared: its text, or its tool calls as
        JSON if it has no text.

        >>> import routewright as rw
        >>> call = {"function": {"name": "now", "arguments": "{}"}}
        >>> rw.Answer("small", message={"role": "assistant", "tool_calls": [call]}).content
        '[{"name": "now", "arguments": "{}"}]'
        """
        calls = (self.message or {}).get("tool_calls")
        if self.text.strip() or not isinstance(calls, list | tuple) or not calls:
            return self.text
        functions = [call.get("function") for call in calls if isinstance(call, Mapping)]
        named = [
            {name: function.get(name, "") for name in ("name", "arguments")}
            for function in functions
            if isinstance(function, Mapping)
        ]
        return json.dumps(named, ensure_ascii=False)

    @property
    def logprob(self) -> float:
        """The mean log-probability of the answer's tokens, in nats; NaN if unknown."""
        if not self.logprobs or not all(abs(value) < 1e9 for value in self.logprobs):
            return math.nan
        return math.fsum(self.logprobs) / len(self.logprobs)


@dataclass(frozen=True)
class Delta:
    """A piece of a streamed answer; `message` is the upstream's own delta object.

    `extra` and `lost` are as in Answer, for the chunk of the piece. `whole` means that the piece is
    a whole answer, which a strategy has judged and accepted; then `native` is its one native reply.
    Otherwise `native` holds the upstream's own events since the last piece, if it speaks the
    protocol of `Query.native`.
    """

    expert: str
    text: str
    message: Message
    finish_reason: str | None = None
    whole: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    native: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """The answer that the client gets, the reason for it, and every answer that was paid for.

    `unlike` is what was unlike the training rows, so that a fixed mix decided: the query, or the
    answers to it. A strategy returns `Decision(answer, because=...)`; the loops add the rest.

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
    unlike: Unlike = ""

    @property
    def cost(self) -> float:
        """The US$ of all asks: failed tries, verifications and committee members too."""
        return total_cost(self.spent)

    @property
    def estimated_cost(self) -> float:
        """The part of `cost` in US$ that is estimated, because no upstream reported it."""
        return estimated_cost(self.spent)

    @property
    def path(self) -> str:
        """The asks in order, as in `small>verify:0.31>large` or `small:deferred>large`."""
        return path_of(self.spent)


def total_cost(spent: Iterable[Answer]) -> float:
    """The total cost of answers in US$."""
    return math.fsum(answer.cost for answer in spent)


def estimated_cost(spent: Iterable[Answer]) -> float:
    """The cost in US$ of the answers whose cost is an estimate."""
    return math.fsum(answer.cost for answer in spent if answer.estimated)


def path_of(spent: Iterable[Answer]) -> str:
    """The path of answers in order, whether or not it ended in a decision.

    >>> path_of([Answer("small", status="failed"), Answer("large")])
    'small:failed>large'
    """
    return ">".join(map(_step, spent))


def _step(answer: Answer) -> str:
    if answer.status != "ok":
        return f"{answer.expert}:{answer.status}"
    if answer.kind in ("answer", "embed"):
        return answer.expert
    value = answer.reward if answer.kind == "judge" else answer.confidence
    return f"{answer.kind}:{'?' if value is None else f'{value:.2f}'}"


@dataclass(frozen=True)
class Outcome:
    """One scored answer: the cell of an outcome table for one query and one expert."""

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
    """The rule that decides, step by step, which experts to ask. It does no I/O.

    `plan` is a generator: it yields asks, is sent answers and returns a decision. A failed ask
    raises UpstreamError at the `yield`, and an ask that the query's limits forbid NotAdmissible.

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
