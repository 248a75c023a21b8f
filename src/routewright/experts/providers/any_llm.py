"""Calls the services that do not speak OpenAI's API, through Mozilla's any-llm: Gemini, Bedrock,
Vertex AI, Mistral, Cohere, … (extra `any-llm`).

The SDKs behind any-llm have connections and settings of their own: of an expert, `model`,
`base_url`, `api_key`, `timeout` and `options` reach them, `headers` and `proxy` do not.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from functools import cache
from inspect import iscoroutinefunction, signature
from typing import TYPE_CHECKING, Any, ClassVar

from routewright.errors import (
    StreamBroken,
    UpstreamError,
    UpstreamRefused,
    UpstreamTimeout,
    needs,
)
from routewright.experts import rate_limits
from routewright.experts.providers import Call, _faults
from routewright.experts.providers._transcript import Transcript, answer
from routewright.experts.redaction import without_keys
from routewright.types import Answer, Delta, Expert

if TYPE_CHECKING:
    from any_llm import AnyLLM
    from any_llm.exceptions import AnyLLMError

OWN = "client_args"  # the option with the arguments of a service's SDK: region, project, …
STATUSES = {  # of any-llm's errors that name no HTTP status
    "AuthenticationError": 401,
    "ContentFilterError": 400,
    "ContextLengthExceededError": 400,
    "GatewayTimeoutError": 504,
    "InsufficientFundsError": 402,
    "InvalidRequestError": 400,
    "MissingApiKeyError": 401,
    "ModelNotFoundError": 404,
    "RateLimitError": 429,
    "UnsupportedParameterError": 400,
    "UpstreamProviderError": 502,
}
NOT_SENT = {"ConnectError", "ConnectTimeout", "EndpointConnectionError"}  # of the SDKs' clients

log = logging.getLogger(__name__)


class AnyLlm:
    """Asks a service of any-llm: `model: "mistral:mistral-small-latest"` names it and its model.

    Without `api_key`, a service reads the variable that any-llm names, such as MISTRAL_API_KEY.
    `options: {client_args: {…}}` holds further arguments of the service's own SDK.
    """

    verify_prompt: ClassVar[str | None] = None
    takes_n: ClassVar[bool] = False
    protocol: ClassVar[str | None] = None

    def __init__(self) -> None:
        self._services: dict[str, AnyLLM] = {}

    async def ask(self, call: Call) -> Answer:
        began = time.monotonic()
        async with _failures(call), asyncio.timeout(call.timeout):
            completion = await self._complete(call)
        result = answer(call, _dict(completion), time.monotonic() - began)
        return replace(result, lost=_unknown(call))

    async def stream(self, call: Call) -> AsyncGenerator[Delta | Answer, None]:
        transcript, lost = Transcript(call), _unknown(call)
        async with aclosing(self._chunks(call)) as chunks:
            try:
                async for chunk in chunks:
                    for delta in transcript.feed(chunk):
                        yield replace(delta, lost=lost) if lost else delta
                if not transcript.is_complete(True):
                    raise UpstreamError(call.expert.name, "its stream ended before the answer did")
            except UpstreamError as error:
                if not transcript.has_content:
                    raise
                broken = error.as_kind(StreamBroken)
                broken.cost = transcript.answer().cost
                raise broken from error
        yield transcript.last()
        yield replace(transcript.answer(), lost=lost)

    async def close(self) -> None:
        """Closes the connections of the SDKs that can do it."""
        for service in self._services.values():
            close = getattr(getattr(service, "client", None), "close", None)
            if close is not None and iscoroutinefunction(close):
                await close()
        self._services.clear()

    async def _chunks(self, call: Call) -> AsyncGenerator[dict[str, Any], None]:
        """The chunks of a stream, each within the time that the expert may be silent."""
        patience = min(call.expert.longest_silence, call.timeout)
        async with _failures(call):
            async with asyncio.timeout(patience):
                chunks = await self._complete(call, stream=True)
            iterator = aiter(chunks)
            try:
                while True:
                    async with asyncio.timeout(patience):
                        chunk = await anext(iterator, None)
                    if chunk is None:
                        return
                    patience = call.expert.longest_silence
                    yield _dict(chunk)
            finally:
                if close := getattr(iterator, "aclose", None):
                    await close()

    async def _complete(self, call: Call, stream: bool = False) -> Any:
        service, left_out = self._service(call.expert), {OWN, *_unknown(call)}
        fields = {k: v for k, v in call.body.items() if v is not None and k not in left_out}
        if stream:  # services that do not know the option are not sent it
            fields = {"stream_options": {"include_usage": True}, **fields, "stream": True}
        _, _, model = (call.expert.model or call.expert.name).partition(":")
        return await service.acompletion(**{**fields, "model": model})

    def _service(self, expert: Expert) -> AnyLLM:
        """The client for the service of an expert; those with equal settings share one."""
        name = (expert.model or expert.name).partition(":")[0]
        own = expert.options.get(OWN) or {}
        key = json.dumps([name, expert.api_key, expert.base_url, own], default=str)
        if key not in self._services:
            with needs("provider any_llm"):
                from any_llm import AnyLLM
            kind = AnyLLM.get_provider_class(name)
            service = AnyLLM.create(
                name,
                expert.api_key,
                expert.base_url,
                unified_exceptions=True,
                max_retries=None if kind.MAX_RETRIES_SUPPORT == "unsupported" else 0,
                **own,
            )
            self._services[key] = service
        return self._services[key]


def mistake(model: str) -> tuple[str, str] | None:
    """Why a model cannot be asked, and the way out; None if it can.

    >>> mistake("mistral-small")[0]
    'names no service'
    """
    service, colon, name = model.partition(":")
    if not colon or not service or not name:
        return "names no service", "write it as in `mistral:mistral-small-latest`"
    try:
        from any_llm import AnyLLM
    except ImportError:
        return "needs more packages", "pip install 'routewright[any-llm]'"
    services = AnyLLM.get_supported_providers()
    if service not in services:
        return "names a service that any-llm does not have", f"choose among {', '.join(services)}"
    try:
        lacks = AnyLLM.get_provider_class(service).MISSING_PACKAGES_ERROR is not None
    except ImportError:
        lacks = True
    if lacks:
        return "needs more packages", f"pip install 'any-llm-sdk[{service}]'"
    return None


def _unknown(call: Call) -> tuple[str, ...]:
    """The client's fields that are not sent, because any-llm does not name them.

    It would pass them on to the service's SDK, where a client could replace keys and headers. The
    config's `options` may do that.
    """
    unknown = call.body.keys() - _known_fields() - call.expert.options.keys() - {OWN}
    return tuple(sorted(key for key in unknown if call.body[key] is not None))


@cache
def _known_fields() -> frozenset[str]:
    with needs("provider any_llm"):
        from any_llm import AnyLLM
    return frozenset(signature(AnyLLM.acompletion).parameters) - {"self", "kwargs", "timeout"}


@asynccontextmanager
async def _failures(call: Call) -> AsyncIterator[None]:
    """Raises what any-llm and the SDKs raise as UpstreamError."""
    expert = call.expert
    try:
        yield
    except TimeoutError as error:
        raise UpstreamTimeout(expert.name, "it took too long or fell silent", sent=True) from error
    except (UpstreamError, GeneratorExit):
        raise
    except ImportError as error:
        log.error("expert '%s': %s", expert.name, without_keys(str(error), expert))
        reason = "its service needs more packages; the log names them"
        raise UpstreamRefused(expert.name, reason, status=501, sent=False) from error
    except Exception as error:
        from any_llm.exceptions import AnyLLMError

        if isinstance(error, AnyLLMError):
            raise _translated(call, error) from error
        # Its text may quote the request.
        reason = f"its SDK failed ({type(error).__name__})"
        raise UpstreamError(expert.name, reason, transient=True, sent=True) from error


def _translated(call: Call, error: AnyLLMError) -> UpstreamError:
    kind, original = type(error).__name__, error.original_exception
    status = error.status_code if (error.status_code or 0) >= 400 else STATUSES.get(kind)
    code = error.code or (_faults.TOO_LONG if kind == "ContextLengthExceededError" else None)
    if status is None:  # no reply, or one that the SDK could not read
        name = type(original or error).__name__  # without its text, which may quote the request
        reason = f"its service could not be asked or understood ({name})"
        sent = not any(type(cause).__name__ in NOT_SENT for cause in _causes(original))
        return UpstreamError(call.expert.name, reason, transient=True, sent=sent, code=code)
    body = getattr(original, "body", None)
    words = _faults.of(body).words if isinstance(body, Mapping) else ""
    fault = _faults.Fault(words or error.message, code, error.param, error.error_type)
    pause = rate_limits.retry_after({"Retry-After": getattr(error, "retry_after", None) or ""})
    return _faults.failure(call.expert.name, fault, status, retry_after=pause)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__


def _dict(value: Any) -> dict[str, Any]:
    """A completion or chunk of any-llm as OpenAI's JSON, with the reasoning where others put it."""
    fields: dict[str, Any] = value.model_dump(mode="json", exclude_none=True)
    for choice in fields.get("choices", ()):
        for part in ("message", "delta"):
            message = choice.get(part)
            if isinstance(message, dict) and isinstance(message.get("reasoning"), str):
                message.setdefault("reasoning_content", message.pop("reasoning"))
    return fields
