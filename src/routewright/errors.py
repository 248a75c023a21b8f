"""The exceptions that Routewright raises on purpose.

    RoutewrightError                the message is for a person and names the way out
    ├── BadInput                    a file, option or request cannot be used (exit 2, HTTP 400)
    │   ├── BadConfig               routewright.yaml
    │   ├── BadTable                an outcome table or a query set
    │   ├── BadRouter               a router folder
    │   └── MissingExtra            packages that an extra of ours installs
    ├── NotAdmissible               the query's limits forbid an ask (HTTP 422)
    │   └── NoAdmissibleExpert      the limits exclude every expert
    ├── UpstreamError               an expert failed before its first byte (HTTP 502/503)
    │   ├── UpstreamTimeout         it did not answer in time (HTTP 504)
    │   ├── UpstreamRefused         it refused the request itself; a retry is useless (4xx)
    │   ├── LocalFailure            this machine could not ask it; no fault of the expert (HTTP 503)
    │   ├── Busy                    it has no room for a further ask; no fault of it (HTTP 429)
    │   └── StreamBroken            it failed after its first byte; no other expert can take over
    └── DeadlineExceeded            the query's own deadline passed (HTTP 504)

Errors of libraries are translated once, at the edge, with `from exc`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from routewright.types import Answer

EXTRAS = {  # package ▶ the extra that installs it
    **dict.fromkeys(("matplotlib", "polars", "scipy", "sklearn"), "train"),
    **dict.fromkeys(("accelerate", "peft", "torch", "transformers"), "lm"),
    **dict.fromkeys(("onnxruntime", "tokenizers"), "sentence"),
    **dict.fromkeys(("jsonschema", "referencing", "regex"), "graders"),
    "any_llm": "any-llm",
    "backports": "zstd",
    **dict.fromkeys(("fsspec", "huggingface_hub"), "hub"),
    "langchain_openai": "langchain",
    "inspect_ai": "inspect",
    "lm_eval": "harness",
    "math_verify": "maths",
    "model2vec": "static",
    "opentelemetry": "otel",
    "presidio_analyzer": "pii",
    "psycopg": "postgres",
    "ray": "ray",
    "sentence_transformers": "torch",
    "spacy": "pii",
    "tldextract": "pii",
}


class RoutewrightError(Exception):
    """The base of all exceptions that Routewright raises on purpose.

    If it is raised by a loop of `drive`, `spent` holds the answers that were paid for before.
    """

    spent: tuple[Any, ...] = ()


class DataWarning(UserWarning):
    """A table was read with a small correction; the command line prints it as a note."""


class BadInput(RoutewrightError):
    """A file, option or request of the caller cannot be used."""


class BadConfig(BadInput):
    """`routewright.yaml` has mistakes; the message lists them all."""


class BadTable(BadInput):
    """An outcome table or a query set is malformed, or lacks what the caller needs of it."""


class BadRouter(BadInput):
    """A folder is not a router that this version can load."""


class MissingExtra(BadInput):
    """Something needs packages that are not installed, or that cannot be imported."""

    def __init__(self, what: str, error: ImportError) -> None:
        broken = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        extra = extra_of(error)
        super().__init__(f"{what} needs more packages: pip install 'routewright[{extra}]'{broken}")


def extra_of(error: ImportError) -> str | None:
    """The extra that installs the package whose import failed; None where we know of none."""
    return EXTRAS.get((error.name or "").partition(".")[0])


@contextmanager
def needs(what: str) -> Iterator[None]:
    """Imports packages of extras; raises MissingExtra, which says what to install for `what`.

    >>> with needs("a tree"):
    ...     raise ModuleNotFoundError(name="sklearn")
    Traceback (most recent call last):
    routewright.errors.MissingExtra: a tree needs more packages: pip install 'routewright[train]'
    """
    try:
        yield
    except ImportError as error:
        if extra_of(error) is None:
            raise
        raise MissingExtra(what, error) from error


class NotAdmissible(RoutewrightError):
    """The query's limits forbid an ask; `rejected` maps the expert to the reason."""

    def __init__(self, expert: str, reason: str) -> None:
        super().__init__(f"expert '{expert}' may not be asked: {reason}")
        self.rejected: Mapping[str, str] = {expert: reason}


class NoAdmissibleExpert(NotAdmissible):
    """The query's limits exclude every expert; `rejected` maps each expert to the reason."""

    def __init__(self, rejected: Mapping[str, str]) -> None:
        reasons = "; ".join(f"{expert}: {reason}" for expert, reason in rejected.items())
        Exception.__init__(self, f"no expert may answer this query ({reasons})")
        self.rejected = dict(rejected)


class UpstreamError(RoutewrightError):
    """An expert failed before its first byte: a retry or another expert may answer.

    `status`, `code`, `param` and `kind` are the upstream's own HTTP status and the `code`, `param`
    and `type` of its error; `retry_after` is its Retry-After in seconds. `transient` means that
    the same request may succeed later. `sent` means that the request was sent and that it is
    unknown whether it is charged; None means that the provider did not say. `cost` is the cost of
    the failed tries in US$; `estimated` tells whether a part of it is an estimate.
    """

    def __init__(
        self,
        expert: str,
        reason: str,
        *,
        status: int | None = None,
        retry_after: float | None = None,
        cost: float = 0.0,
        sent: bool | None = None,
        code: str | None = None,
        param: str | None = None,
        kind: str | None = None,
        transient: bool = False,
    ) -> None:
        super().__init__(f"expert '{expert}' failed: {reason}")
        self.expert = expert
        self.reason = reason
        self.status = status
        self.retry_after = retry_after
        self.cost = cost
        self.sent = sent
        self.code = code
        self.param = param
        self.kind = kind
        self.transient = transient
        self.estimated = False

    @classmethod
    def of(cls, *answers: Answer) -> UpstreamError:
        """The error for answers that did not arrive: that of the first one, with its cost.

        If every expert reported that it is busy, the client should come back as soon as the first
        of them is free. So the error then has the smallest Retry-After.
        """
        errors = [_error_of(cls, answer) for answer in answers]
        statuses = {error.status for error in errors}
        if len(errors) > 1 and statuses <= {429, 503}:
            pauses = [error.retry_after for error in errors if error.retry_after is not None]
            errors[0].status = 429 if statuses == {429} else 503
            errors[0].retry_after = min(pauses, default=None)
        return errors[0]

    def as_kind(self, kind: type[UpstreamError]) -> UpstreamError:
        """A copy of this error, of another class."""
        return _restored(kind, self.args, self.__dict__)

    def rephrase(self, reason: str) -> None:
        """Replaces the reason, in the message too."""
        self.args = (str(self).removesuffix(self.reason) + reason,)
        self.reason = reason

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self.args, self.__dict__)


def _error_of(kind: type[UpstreamError], answer: Answer) -> UpstreamError:
    if isinstance(answer.error, UpstreamError):
        return answer.error.as_kind(type(answer.error))
    reasons = {"failed": answer.reason, "cancelled": "it was cancelled"}
    return kind(answer.expert, reasons.get(answer.status, "it deferred"), cost=answer.cost)


def _restored(
    kind: type[UpstreamError], args: tuple[Any, ...], state: Mapping[str, Any]
) -> UpstreamError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UpstreamTimeout(UpstreamError):
    """An expert did not answer in time."""


class UpstreamRefused(UpstreamError):
    """An expert refused the request itself (4xx): a retry is useless."""


class LocalFailure(UpstreamError):
    """This machine could not ask an expert: it lacks descriptors, memory or a name server.

    It says nothing about the expert, so no circuit breaker counts it.
    """

    def __init__(self, expert: str, reason: str, *, cost: float = 0.0, sent: bool = False) -> None:
        super().__init__(expert, reason, status=503, retry_after=1.0, cost=cost, sent=sent)
        self.args = (f"this machine could not ask expert '{expert}': {reason}",)


class Busy(UpstreamError):
    """An expert has no room for a further ask: its `max_concurrency` or a rate limit is used up.

    It was not asked, so no circuit breaker counts it.
    """

    def __init__(self, expert: str, reason: str, retry_after: float) -> None:
        super().__init__(expert, reason, status=429, retry_after=retry_after, sent=False)
        self.args = (f"expert '{expert}' is busy: {reason}",)


class StreamBroken(UpstreamError):
    """An expert failed after its first byte had been sent to the client."""


class DeadlineExceeded(RoutewrightError):
    """The query's own deadline (`max_latency`) passed before an answer was complete."""
