"""Removes keys, addresses and paths from the errors of upstreams. Pure functions.

An upstream may repeat the key that it refused, and its own upstreams' addresses. Clients see the
text that is left; none of it tells where the gateway sends their queries.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from collections.abc import Iterator
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from routewright.types import Deployment, Expert

KEY, ADDRESS, PATH = "[key]", "[address]", "[path]"
LONGEST = 1000  # characters of a message
LONGEST_READ = 4 * LONGEST  # characters of a message that are searched
SHORTEST_SECRET = 4  # characters; a shorter value is a part of too many words
# Every repetition is bounded, so that the time is linear in the length of the text.
KEYS = re.compile(
    r"\bsk-[\w*.-]{1,200}|(?<=Bearer )\S{1,500}|(?<=Basic )\S{1,500}"
    r"|[\w.-]{1,40}\*{3,99}[\w.-]{0,40}"
)
URLS = re.compile(r"\b\w{2,12}://[^\s\"'<>)\]]{1,4000}")
NAMES = re.compile(  # a host with a port, or in a domain of private networks
    r"(?<![\w.-])(?:(?:[\w-]{1,63}\.){1,8}(?:internal|intranet|intra|local|localdomain|lan|corp|svc"
    r"|home|private)\b(?:\.[\w-]{1,63}){0,4}(?::\d{1,5})?|localhost(?::\d{1,5})?"
    r"|[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}:\d{2,5}(?!\d))",
    re.IGNORECASE,
)
IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?::\d{1,5})?(?![\w])")
IPV6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}(?:%\w{1,15})?(?![\w:])")
PATHS = re.compile(
    r"(?<![\w./:<-])/(?:[\w.@+~-]{1,100}/){1,30}[\w.@+~-]{0,100}|\b[A-Za-z]:\\\S{1,300}"
)
REQUEST_FIELDS = {"messages", "tools", "body", "input", "response_format", "tool_choice", "stop"}


def redact(text: str, expert: Expert) -> str:
    """A message about an expert, fit for clients: short, without keys, addresses and paths.

    >>> redact("Incorrect API key: sk-ab***cd", Expert("cloud", api_key="sk-abXXcd"))
    'Incorrect API key: [key]'
    >>> redact("no route to http://10.0.0.7:8000/v1", Expert("cloud"))
    'no route to [address]'
    """
    text = _without_addresses(without_keys(text, expert), expert)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def without_keys(text: str, expert: Expert) -> str:
    """A message, fit for the log: without the keys of an expert."""
    text = text[: 16 * LONGEST_READ]
    for secret in sorted(set(_keys(expert)), key=len, reverse=True):
        text = text.replace(secret, KEY)
    text = KEYS.sub(KEY, text[:LONGEST_READ])
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be sent


def _without_addresses(text: str, expert: Expert) -> str:
    text = URLS.sub(ADDRESS, text)
    for name in sorted(set(_hosts(expert)), key=len, reverse=True):
        text = re.sub(
            rf"(?<![\w.-]){re.escape(name)}(?::\d{{1,5}})?(?![\w-])", ADDRESS, text, flags=re.I
        )
    text = NAMES.sub(ADDRESS, text)
    text = IPV4.sub(ADDRESS, text)
    text = IPV6.sub(_without_ip, text)
    return PATHS.sub(lambda match: match[0] if _is_pointer(match[0]) else PATH, text)


def _keys(expert: Expert) -> Iterator[str]:
    """Everything in the config of an expert that may be a key, in the forms that texts repeat."""
    for secret in _plain_keys(expert):
        for form in (secret, quote(secret, safe=""), base64.b64encode(secret.encode()).decode()):
            if len(form) >= SHORTEST_SECRET:
                yield form


def _plain_keys(expert: Expert) -> Iterator[str]:
    places: tuple[Expert | Deployment, ...] = (expert, *expert.deployments)
    for place in places:
        if place.api_key:
            yield place.api_key
        for value in place.headers.values():
            if value:
                yield value
                yield value.rpartition(" ")[2]  # without the scheme, such as Bearer
    for url in _urls(expert):
        user = url.netloc.rpartition("@")[0]
        for form in {user, unquote(user)} - {""}:
            yield form
            yield from form.split(":")
        yield from (value for name, value in parse_qsl(url.query) if "version" not in name)
        if url.query:
            yield url.query


def _urls(expert: Expert) -> Iterator[SplitResult]:
    """The addresses of an expert: its endpoint, its deployments and its proxy."""
    for place in (expert.base_url, *(d.base_url for d in expert.deployments), expert.proxy):
        if place:
            yield urlsplit(place)


def _hosts(expert: Expert) -> Iterator[str]:
    """The names in an expert's addresses, without the path, which `PATHS` finds."""
    for url in _urls(expert):
        if url.hostname:
            yield url.hostname
            yield url.netloc.rpartition("@")[2]


def _without_ip(match: re.Match[str]) -> str:
    """ADDRESS if a text is an IPv6 address, which a colon may follow."""
    text = match[0]
    for end in ("", ":"):
        try:
            ipaddress.IPv6Address(text.removesuffix(end))
        except ValueError:
            continue
        return ADDRESS + end if any(map(str.isalnum, text)) else text
    return text


def _is_pointer(path: str) -> bool:
    """Whether a path is that of a field of the request, as in /messages/0/content."""
    return path.startswith("/") and path.split("/")[1] in REQUEST_FIELDS
