"""Takes prices, context windows and capabilities of hosted models from a price list.

A price list has the format of LiteLLM's public file `model_prices_and_context_window.json`. A dated
extract of it, with common models, is shipped as prices.json. A model is looked up by its name and
by the host that serves it, so a model on a server of one's own never gets the price of a hosted
model with the same name.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from routewright.errors import BadInput

SHIPPED = Path(__file__).with_name("prices.json")
LARGEST_FILE = 64 << 20  # bytes; LiteLLM's whole file has about 2 MB
MODES = ("chat", "responses", "completion")  # entries of other modes are no chat models
FLAGS = {
    "json": "supports_response_schema",
    "tools": "supports_function_calling",
    "vision": "supports_vision",
}
NO_LIST = "none"  # the `price_list:` of an expert that takes nothing from a list
BY_MODEL = "litellm"  # the `price_list:` of an expert that is looked up by its model and host
PRICES = ("input_per_mtok", "output_per_mtok", "cached_input_per_mtok")
DEPLOYMENT = re.compile(r"/deployments/([^/]+)")


@dataclass(frozen=True)
class Vendor:
    """A company that serves models, and how a price list names them.

    `keys` are the environment variables that usually hold its key. `offers` are common models of
    the vendor: a cheap one and a strong one.
    """

    id: str  # as in LiteLLM's `litellm_provider`
    title: str
    base_url: str
    keys: tuple[str, ...]
    offers: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()  # besides that of `base_url`; `.example.com` holds for all below

    def serves(self, host: str) -> bool:
        """Whether a host, in small letters, is one of the vendor's."""
        if any(host.endswith(name) for name in self.hosts if name.startswith(".")):
            return True
        return bool(host) and host in (urlsplit(self.base_url).hostname, *self.hosts)


VENDORS = (
    Vendor(
        id="openai",
        title="OpenAI",
        base_url="https://api.openai.com/v1",
        keys=("OPENAI_API_KEY",),
        offers=("gpt-6-luna", "gpt-6.1-sol"),
        hosts=("us.api.openai.com", "eu.api.openai.com"),
    ),
    Vendor(
        id="anthropic",
        title="Anthropic",
        base_url="https://api.anthropic.com/v1",
        keys=("ANTHROPIC_API_KEY",),
        offers=("claude-haiku-5-5", "claude-opus-5-5"),
    ),
    Vendor(
        id="gemini",
        title="Gemini",
        base_url="https://generativelanguage.googleapis.com/v1beta/openai",
        keys=("GEMINI_API_KEY", "GOOGLE_API_KEY"),
        offers=("gemini-3.5-flash-lite", "gemini-4-argon"),
    ),
    Vendor(
        id="mistral",
        title="Mistral",
        base_url="https://api.mistral.ai/v1",
        keys=("MISTRAL_API_KEY",),
        offers=("ministral-8b-latest", "mistral-large-4"),
    ),
    Vendor(
        id="deepseek",
        title="DeepSeek",
        base_url="https://api.deepseek.com/v1",
        keys=("DEEPSEEK_API_KEY",),
        offers=("deepseek-v4-flash", "deepseek-v4-pro"),
    ),
    Vendor(
        id="xai",
        title="xAI",
        base_url="https://api.x.ai/v1",
        keys=("XAI_API_KEY",),
        offers=("grok-4.3", "grok-4.7"),
    ),
    Vendor(
        id="groq",
        title="Groq",
        base_url="https://api.groq.com/openai/v1",
        keys=("GROQ_API_KEY",),
        offers=("openai/gpt-oss-20b", "openai/gpt-oss-120b"),
    ),
    Vendor(
        id="together_ai",
        title="Together",
        base_url="https://api.together.xyz/v1",
        keys=("TOGETHER_API_KEY", "TOGETHERAI_API_KEY"),
        offers=("openai/gpt-oss-120b", "moonshotai/Kimi-K3"),
        hosts=("api.together.ai",),
    ),
    Vendor(
        id="openrouter",
        title="OpenRouter",
        base_url="https://openrouter.ai/api/v1",
        keys=("OPENROUTER_API_KEY",),
        offers=("openai/gpt-6-luna", "anthropic/claude-opus-5.5"),
    ),
    Vendor(
        id="cohere_chat",
        title="Cohere",
        base_url="https://api.cohere.ai/compatibility/v1",
        keys=("COHERE_API_KEY", "CO_API_KEY"),
        offers=("command-r7b-12-2024", "command-a-03-2025"),
        hosts=("api.cohere.com",),
    ),
    Vendor(
        id="azure",
        title="Azure OpenAI",
        base_url="",  # each customer has an own host
        keys=("AZURE_OPENAI_API_KEY", "AZURE_API_KEY"),
        hosts=(".openai.azure.com", ".services.ai.azure.com", ".cognitiveservices.azure.com"),
    ),
)
BY_ID = {vendor.id: vendor for vendor in VENDORS}
AUTHORS = {  # of models at OpenRouter ▶ the vendor
    "openai": "openai",
    "anthropic": "anthropic",
    "google": "gemini",
    "mistralai": "mistral",
    "deepseek": "deepseek",
    "x-ai": "xai",
    "cohere": "cohere_chat",
}


@dataclass(frozen=True)
class Listing:
    """What a price list says about one model; prices in US$ per million tokens."""

    name: str  # in the list
    input_per_mtok: float
    output_per_mtok: float
    cached_input_per_mtok: float | None = None
    context_window: int | None = None  # tokens
    capabilities: frozenset[str] | None = None  # None: the list does not say


@dataclass(frozen=True)
class PriceList:
    """The chat models of a price file. `label` names the list in messages, with its date."""

    label: str
    models: Mapping[str, tuple[str, Listing]]  # name ▶ LiteLLM's provider, and what it says

    def named(self, name: str) -> Listing | None:
        """The listing with exactly this name."""
        return self.models[name][1] if name in self.models else None

    def find(self, model: str, vendor: Vendor) -> Listing | None:
        """The listing of a vendor's model; None if the list does not have it for this vendor."""
        for id, name in _candidates(model, vendor):
            provider, listing = self.models.get(name, ("", None))
            if listing is not None and provider.removesuffix("_chat") == id.removesuffix("_chat"):
                return listing
        return None

    def of(self, expert: Mapping[str, Any]) -> Listing | None:
        """The listing of a config's entry; its `price_list` may name one, or be `none`."""
        choice = expert.get("price_list")
        if isinstance(choice, str) and choice not in (BY_MODEL, NO_LIST):
            return self.named(choice)
        vendor, model = vendor_of(expert), expert.get("model") or expert.get("name")
        if choice == NO_LIST or vendor is None or not isinstance(model, str):
            return None
        listing = self.find(model, vendor)
        if listing is None and vendor.id == "azure":
            match = DEPLOYMENT.search(urlsplit(str(_address(expert))).path)
            listing = self.find(unquote(match[1]), vendor) if match else None
        return listing


def _candidates(model: str, vendor: Vendor) -> Iterator[tuple[str, str]]:
    """The LiteLLM provider and the name under which a list may have a vendor's model."""
    model = model.removeprefix("models/")  # as Gemini lists its models
    yield vendor.id, f"{vendor.id}/{model}"
    yield vendor.id, model
    if vendor.id == "openai" and model.startswith("ft:"):  # ft:BASE:organisation:name:id
        yield "openai", ":".join(model.split(":")[:2])
    if vendor.id == "azure":
        yield "openai", model
    author, _, name = model.partition("/")
    if vendor.id == "openrouter" and author in AUTHORS and ":" not in name:
        owner = AUTHORS[author]
        yield from _candidates(name, BY_ID[owner])
        if owner == "anthropic":  # OpenRouter writes versions with a dot
            yield from _candidates(name.replace(".", "-"), BY_ID[owner])


def vendor_of(expert: Mapping[str, Any]) -> Vendor | None:
    """The vendor of a config's entry, by the host of its address, or else by its `provider`."""
    url, provider = _address(expert), expert.get("provider", "openai")
    if url is None:
        provider = "openai" if provider == "responses" else provider
        return BY_ID.get(provider) if isinstance(provider, str) else None
    try:
        host = (urlsplit(str(url)).hostname or "").rstrip(".")
    except ValueError:
        return None
    return next((vendor for vendor in VENDORS if vendor.serves(host)), None)


def _address(expert: Mapping[str, Any]) -> Any:
    """The `base_url` of an entry, or that of its first deployment; None if neither has one."""
    url, deployments = expert.get("base_url"), expert.get("deployments")
    if url is None and isinstance(deployments, list) and deployments:
        first = deployments[0]
        return first.get("base_url") if isinstance(first, dict) else None
    return url


def missing_fields(expert: Mapping[str, Any], listing: Listing) -> dict[str, Any]:
    """The fields of a listing that a config's entry does not name.

    The price of cached input is not taken if the entry names another input price than the list.
    """
    known = {key for key, value in expert.items() if value is not None}
    cached = listing.cached_input_per_mtok
    if expert.get("input_per_mtok") not in (None, listing.input_per_mtok):
        cached = None
    fields = {
        "input_per_mtok": listing.input_per_mtok,
        "output_per_mtok": listing.output_per_mtok,
        "cached_input_per_mtok": cached,
        "context_window": listing.context_window,
        "capabilities": None if listing.capabilities is None else sorted(listing.capabilities),
    }
    return {key: value for key, value in fields.items() if value is not None and key not in known}


def sentence(expert: str, fields: Mapping[str, Any], label: str) -> str:
    """One line about the fields that an expert takes from a price list.

    >>> fields = {"input_per_mtok": 2.5, "output_per_mtok": 10.0}
    >>> sentence("gpt-4o", fields, "the price list of 2026-11-30")
    'gpt-4o: $2.50 in, $10.00 out per million tokens, from the price list of 2026-11-30'
    """
    words = zip(PRICES, ("in", "out", "cached in"), strict=True)
    prices = [f"{dollars(fields[key])} {word}" for key, word in words if key in fields]
    parts = [f"{', '.join(prices)} per million tokens"] if prices else []
    if window := fields.get("context_window"):
        parts.append(f"a context window of {window:,} tokens")
    if "capabilities" in fields:
        parts.append(f"capabilities {', '.join(fields['capabilities']) or 'none'}")
    return f"{expert}: {', '.join(parts)}, from {label}"


def dollars(price: float) -> str:
    """A price with at least two decimals.

    >>> dollars(2.5), dollars(0.075), dollars(30)
    ('$2.50', '$0.075', '$30.00')
    """
    text = f"{price:.6f}".rstrip("0")
    return f"${text}{'0' * max(0, 2 - len(text.partition('.')[2]))}"


# --- reading ---------------------------------------------------------------------------------


@cache
def shipped() -> PriceList:
    """The extract of LiteLLM's file that is shipped with this package."""
    return read(SHIPPED)


def read(path: Path) -> PriceList:
    """A price list in LiteLLM's format.

    Entries that are no chat models, have no price or cannot be read are left out. Raises BadInput
    if the file is no price list.
    """
    advice = (
        "download LiteLLM's model_prices_and_context_window.json"
        " (the raw file, not its page at GitHub)"
    )
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise BadInput(f"'{path}' is larger than {LARGEST_FILE >> 20} MiB: {advice}")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
        raise BadInput(f"cannot read the price list '{path}': {reason}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"'{path}' is not UTF-8 text, so it is no price list: {advice}") from error
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        kind = "a web page" if text.lstrip()[:1] == "<" else "not JSON"
        raise BadInput(f"'{path}' is {kind}, so it is no price list: {advice}") from error
    models = data.get("models", data) if isinstance(data, dict) else None
    if not isinstance(models, dict):
        raise BadInput(f"'{path}' is no object of models, so it is no price list: {advice}")
    entries = {
        name: (str(entry.get("litellm_provider", "")), listing)
        for name, entry in models.items()
        if isinstance(entry, dict) and (listing := _listing(name, entry)) is not None
    }
    if not entries:
        raise BadInput(
            f"'{path}' has no chat model with `input_cost_per_token` and `output_cost_per_token`:"
            f" {advice}"
        )
    if path == SHIPPED:
        return PriceList(f"the price list of {data['date']}", entries)
    date = datetime.fromtimestamp(path.stat().st_mtime, UTC).date()
    return PriceList(f"{path.name} of {date}", entries)


def _listing(name: str, entry: Mapping[str, Any]) -> Listing | None:
    """What an entry of the file says; None if it is no chat model with readable prices."""
    sent = _per_mtok(entry.get("input_cost_per_token"))
    received = _per_mtok(entry.get("output_cost_per_token"))
    if entry.get("mode", "chat") not in MODES or sent is None or received is None:
        return None
    window: Any = entry.get("max_input_tokens")
    is_count = type(window) in (int, float) and 1 <= window < math.inf
    return Listing(
        name,
        sent,
        received,
        _per_mtok(entry.get("cache_read_input_token_cost")),
        int(window) if is_count else None,
        _capabilities(entry),
    )


def _per_mtok(price: Any) -> float | None:
    """US$ per million tokens, without the rounding errors of a multiplication."""
    if type(price) not in (int, float) or not 0 <= price < math.inf:
        return None
    return float(f"{price * 1e6:.10g}")


def _capabilities(entry: Mapping[str, Any]) -> frozenset[str] | None:
    """The capabilities of an entry.

    LiteLLM's file leaves out the flags of a capability that a model lacks. But
    `supports_response_schema` is about schemas alone, so a model without this flag may still write
    JSON. An entry without any flag says nothing.
    """
    if not any(isinstance(entry.get(flag), bool) for flag in FLAGS.values()):
        return None
    flags = {name: entry.get(flag) for name, flag in FLAGS.items()}
    return frozenset(
        name for name, flag in flags.items() if flag is True or (name == "json" and flag is None)
    )
