"""Finds models that can be asked: keys in the environment, and servers that list their models."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from routewright.errors import BadInput
from routewright.experts.prices import BY_ID, VENDORS, Vendor

USUAL_PORTS = {11434: "Ollama", 8000: "vLLM", 8080: "llama.cpp", 1234: "LM Studio"}
PATIENCE = 2.0  # seconds that a server on a usual port may take to list its models
LARGEST_REPLY = 8 << 20  # bytes of a list of models
NO_CHAT = re.compile(r"embed|rerank|whisper|(^|[-_/])(tts|bge|clip)([-_.]|$)", re.IGNORECASE)
AZURE_ENDPOINT = "AZURE_OPENAI_ENDPOINT"
AZURE_DEPLOYMENTS = ("AZURE_OPENAI_DEPLOYMENT", "AZURE_OPENAI_DEPLOYMENT_NAME")
OPENAI_URLS = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
OPENAI_KEY = "OPENAI_API_KEY"
OLLAMA = "OLLAMA_HOST"


@dataclass(frozen=True)
class Model:
    """A model that a server lists."""

    id: str
    context_window: int | None = None  # tokens


@dataclass(frozen=True)
class Reply:
    """The reply of an address to `GET …/models`."""

    url: str  # without /models
    status: int | None = None  # None: no reply
    reason: str = ""  # why there was no reply
    content_type: str = ""
    date: datetime | None = None  # of its Date header
    models: tuple[Model, ...] | None = None  # None: the reply is no list of models

    @property
    def is_refused(self) -> bool:
        """Whether the server wants a key, or another one."""
        return self.status in (401, 403)

    @property
    def fault(self) -> str:
        """What is wrong with the reply; empty for a list of models."""
        if self.models is not None:
            return ""
        if self.status is None:
            return self.reason
        if self.is_refused:
            return f"HTTP {self.status}: it needs a key that it accepts"
        kind = self.content_type or "nothing"
        return f"HTTP {self.status} with {kind} instead of a list of models"


@dataclass(frozen=True)
class Source:
    """A place with models: a vendor whose key is set, or a server.

    `key` is the environment variable that holds the key. `models` is empty if the source was not
    asked; then the price list names the models.
    """

    id: str
    title: str
    base_url: str
    key: str | None = None
    models: tuple[Model, ...] = ()
    vendor: Vendor | None = None

    @property
    def provider(self) -> str:
        """The provider that asks its models."""
        return "anthropic" if self.vendor and self.vendor.id == "anthropic" else "openai"


async def list_models(
    base_url: str, key: str | None = None, patience: float = PATIENCE, proxy: str | None = None
) -> Reply:
    """Asks a server for its models, without following redirects. Raises nothing."""
    timeout = aiohttp.ClientTimeout(total=patience)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    url = base_url.rstrip("/")
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=aiohttp.DummyCookieJar()) as session,
            session.get(
                f"{url}/models", headers=headers, allow_redirects=False, proxy=proxy
            ) as response,
        ):
            raw = await response.content.read(LARGEST_REPLY)
            while raw and len(raw) < LARGEST_REPLY and not response.content.at_eof():
                raw += await response.content.read(LARGEST_REPLY - len(raw))
            models = _models(raw) if response.status == 200 else None
            date = _date(response.headers.get("Date", ""))
            return Reply(url, response.status, "", response.content_type, date, models)
    except TimeoutError:
        return Reply(url, reason=f"no answer within {patience:g} s")
    except (aiohttp.ClientError, OSError, ValueError, UnicodeError) as error:
        return Reply(url, reason=_reason(error))


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its host name has no address"
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return "its TLS certificate is not valid"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "nothing listens there"
    return str(error)[:200] or type(error).__name__


def _models(raw: bytes) -> tuple[Model, ...] | None:
    """The models of a reply in OpenAI's format; None if it is none."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    entries = body.get("data") if isinstance(body, dict) else body  # Together sends a bare list
    if not isinstance(entries, list):
        return None
    return tuple(
        Model(entry["id"], _window(entry))
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]
    )


def _window(entry: Mapping[str, Any]) -> int | None:
    """The context window of a model as vLLM, llama.cpp and hosted services report it."""
    meta = entry.get("meta") if isinstance(entry.get("meta"), dict) else {}
    candidates = [entry.get("max_model_len"), meta.get("n_ctx"), entry.get("context_length")]  # type: ignore[union-attr]
    counts = (count for count in candidates if type(count) is int and count > 0)
    return next(counts, None)


def _date(text: str) -> datetime | None:
    with suppress(ValueError, TypeError):
        return parsedate_to_datetime(text)
    return None


# --- sources ---------------------------------------------------------------------------------


def vendors(environment: Mapping[str, str]) -> list[Source]:
    """The vendors whose key is set. If OPENAI_BASE_URL is set, the key of OpenAI belongs to that
    server, and OpenAI is none of them."""
    sources = []
    for vendor in VENDORS:
        key = next((name for name in vendor.keys if environment.get(name)), None)
        if key is None or (vendor.id == "openai" and openai_url(environment)):
            continue
        if vendor.id == "azure":
            sources += _azure(environment, key)
        else:
            sources.append(Source(vendor.id, vendor.title, vendor.base_url, key, vendor=vendor))
    return sources


def _azure(environment: Mapping[str, str], key: str) -> list[Source]:
    """The deployments of an Azure resource, which only its owner can name."""
    endpoint = environment.get(AZURE_ENDPOINT, "").rstrip("/")
    if not endpoint:
        return []
    names = [environment[name] for name in AZURE_DEPLOYMENTS if environment.get(name)]
    models = tuple(Model(name.strip()) for text in names for name in text.split(",") if name)
    url = endpoint if "/openai" in urlsplit(endpoint).path else f"{endpoint}/openai/v1"
    azure = BY_ID["azure"]
    return [Source(azure.id, azure.title, url, key, tuple(dict.fromkeys(models)), azure)]


def openai_url(environment: Mapping[str, str]) -> str | None:
    """The address that OPENAI_BASE_URL names, unless it is OpenAI's own."""
    url = next((environment[name] for name in OPENAI_URLS if environment.get(name)), "")
    host = urlsplit(url).hostname or ""
    return None if not url or BY_ID["openai"].serves(host) else server_url(url)


def server_url(text: str) -> str:
    """The base URL of a server that is given as a port, a host with a port, or a URL.

    >>> server_url("9000"), server_url("gpu:8000"), server_url("http://gpu:8000")
    ('http://127.0.0.1:9000/v1', 'http://gpu:8000/v1', 'http://gpu:8000/v1')
    """
    if "@" in text or "?" in text:
        raise BadInput("the URL of a server holds a key: set it in the environment instead")
    url = f"127.0.0.1:{text}" if text.isdecimal() else text
    url = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(url)
        if not parts.hostname or parts.scheme not in ("http", "https") or parts.port == 0:
            raise ValueError
    except ValueError as error:
        raise BadInput(
            f"'{text}' is no server: give a port, as in 8000, or a URL, as in"
            " http://127.0.0.1:8000/v1"
        ) from error
    return url.rstrip("/") if parts.path.rstrip("/") else f"{url.rstrip('/')}/v1"


async def servers(
    environment: Mapping[str, str], given: Sequence[str] = (), scan: bool = True
) -> list[Source]:
    """The servers that list at least one chat model.

    They are those that are `given`, that of OPENAI_BASE_URL, and with `scan` those on the usual
    ports of this machine and of OLLAMA_HOST. Raises BadInput if a given one lists no model.
    """
    explicit = {server_url(text): ("server", None) for text in given}
    places: dict[str, tuple[str, str | None]] = dict(explicit)
    if url := openai_url(environment):
        places[url] = ("server", OPENAI_KEY if environment.get(OPENAI_KEY) else None)
    if scan:
        if host := environment.get(OLLAMA):
            with suppress(BadInput):
                places.setdefault(_ollama(host), ("Ollama", None))
        for port, title in USUAL_PORTS.items():
            places.setdefault(f"http://127.0.0.1:{port}/v1", (title, None))
    replies = await asyncio.gather(
        *(list_models(url, environment.get(key or "")) for url, (_, key) in places.items())
    )
    sources = []
    for (url, (title, key)), reply in zip(places.items(), replies, strict=True):
        models = tuple(chat_models(reply.models or ()))
        if url in explicit and not models:
            why = reply.fault or "it lists no chat model"
            way_out = _way_to_key(url, key) if reply.is_refused else ""
            raise BadInput(f"the server at {url} cannot be used: {why}{way_out}")
        if models:
            sources.append(Source(urlsplit(url).netloc, title, url, key, models))
    return sources


def _way_to_key(url: str, key: str | None) -> str:
    if key:
        return f", and {key} holds another one"
    return (
        f"; give it with `export {OPENAI_URLS[0]}={url} {OPENAI_KEY}=…`, or leave the server out"
        " and add it to the config with `api_key: ${NAME}`"
    )


def _ollama(host: str) -> str:
    host = host.replace("0.0.0.0", "127.0.0.1")
    has_port = ":" in host.removeprefix("http://").removeprefix("https://")
    return server_url(host if has_port else f"{host}:11434")


def chat_models(models: Iterable[Model]) -> list[Model]:
    """The models without those that embed, rank, or hear, and those that a config cannot name."""
    return [model for model in models if not NO_CHAT.search(model.id) and "${" not in model.id]
