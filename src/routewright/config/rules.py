"""What can be wrong with routewright.yaml beyond the shape of its values.

Each rule is a generator that reads the document and yields problems; `RULES`, at the end, is
the list. A rule passes over values of the wrong type: `shape.py` tells those, so that
one mistake is told once and every other one is told as well.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from routewright import __version__
from routewright.config import policies as config_policies
from routewright.config.document import NAME, SECRETS, Document, Problem, is_reference, no_key
from routewright.registry import choose, names
from routewright.types import DATA_CLASSES

Rule: TypeAlias = Callable[[Document], Iterator[Problem]]

VERSION = 1
OPENAI_KEY = "OPENAI_API_KEY"  # used if an expert at api.openai.com has no `api_key`


def is_loopback(host: str | None) -> bool:
    """Whether only this machine can reach that host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


# -- the file ----------------------------------------------------------------------------------


def version(document: Document) -> Iterator[Problem]:
    if "version" not in document.data:
        mend = f"write `version: {VERSION}` on the first line"
        yield document.problem(("version",), "is missing", mend)
    elif type(document.get("version")) is not int or document.get("version") != VERSION:
        yield document.problem(
            ("version",),
            "is not a version of this file that can be read",
            f"write `version: {VERSION}`: routewright {__version__} reads no other",
        )


def plain_keys(document: Document) -> Iterator[Problem]:
    for loc, text in document.scalars.items():
        if not SECRETS & set(loc) or not text:
            continue
        if not is_reference(text):
            mend = "write ${NAME} and set NAME in the environment"
            yield document.warning(loc, "is a key in plain text", mend)
        if re.search(r"\s", str(document.get(*loc))):
            mend = "remove it: no server accepts such a key"
            yield document.problem(loc, "holds white space", mend)


# -- experts -----------------------------------------------------------------------------------


def some_experts(document: Document) -> Iterator[Problem]:
    if document.get("experts") == []:
        mend = "add an entry with `name:`, `base_url:` and prices"
        yield document.problem(("experts",), "names no expert", mend)


def unique_names(document: Document) -> Iterator[Problem]:
    first: dict[str, int | None] = {}
    for loc, _ in document.items("experts"):
        name = document.get(*loc, "name")
        if not isinstance(name, str):
            continue
        at = (*loc, "name")
        if name in first:
            taken = f"is already the name of the expert on line {first[name]}"
            yield document.problem(at, taken, "give each expert its own name")
        first.setdefault(name, document.place(at)[0])


def speakable_names(document: Document) -> Iterator[Problem]:
    for loc, _ in document.items("experts"):
        name = document.get(*loc, "name")
        if not isinstance(name, str) or not name:
            continue
        if not NAME.fullmatch(name) or "::" in name:
            mend = "use visible ASCII characters, without space, `>` and `::`"
            yield document.problem((*loc, "name"), "cannot travel in an HTTP header", mend)
        elif name == "auto" or name.startswith(("routewright/", "router-")):
            mend = "choose another: clients ask the gateway for `auto`, `routewright/POLICY` and "
            yield document.problem((*loc, "name"), "is reserved", mend + "`router-NAME-THRESHOLD`")


def providers(document: Document) -> Iterator[Problem]:
    for loc, _ in document.items("experts"):
        name = document.get(*loc, "provider")
        if isinstance(name, str) and name not in names("providers"):
            mend = choose(name, names("providers"))
            yield document.problem((*loc, "provider"), "is no known provider", mend)


def base_urls(document: Document) -> Iterator[Problem]:
    for loc, _ in document.items("experts"):
        url = document.get(*loc, "base_url")
        if isinstance(url, str) and (wrong := _url_mistake(url)):
            yield document.problem((*loc, "base_url"), *wrong)


def _url_mistake(url: str) -> tuple[str, str] | None:
    example = "write it like http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(url)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        return "has a malformed host or port", example
    if parts.scheme not in ("http", "https"):
        return "does not begin with http:// or https://", example
    if not parts.hostname or not port_is_fine or re.search(r"\s", url):
        return "is not a URL", example
    if parts.username is not None or parts.password is not None:
        return "holds a user name or password", "put the key in `api_key`"
    if parts.query or parts.fragment:
        return "holds a query or fragment", "end it with the path: paths are added to it"
    if parts.path.rstrip("/").endswith("/chat/completions"):
        return "names one endpoint", "leave out /chat/completions: paths are added to it"
    return None


def launches(document: Document) -> Iterator[Problem]:
    """What we start must be findable again: on this machine, at a port of its own."""
    taken: dict[int, Any] = {}
    for loc, expert in document.items("experts"):
        at, command = (*loc, "launch"), document.get(*loc, "launch", "command")
        if not isinstance(command, str) or not isinstance(expert, dict):
            continue
        try:
            shlex.split(command)
        except ValueError as error:
            what = f"cannot be split into words: {error}"
            yield document.problem((*at, "command"), what.lower(), "close the quotes")
        url = document.get(*loc, "base_url")
        if (*loc, "base_url") in document.unset:
            continue
        if not isinstance(url, str) or _url_mistake(url):
            if url is None:
                mend = "add `base_url: http://127.0.0.1:PORT/v1`, where it is going to listen"
                yield document.problem(at, "says nothing about where it will be", mend)
            continue
        port = urlsplit(url).port
        if port is None or not _is_local(expert):
            mend = "write http://127.0.0.1:PORT/v1, or leave `launch` out if others run it"
            what = "is no port of this machine, where `launch` starts it"
            yield document.problem((*loc, "base_url"), what, mend)
            continue
        if port in taken:
            mend = "give each launched expert a port of its own"
            what = f"has the port of expert '{taken[port]}', which is launched too"
            yield document.problem((*loc, "base_url"), what, mend)
        taken.setdefault(port, expert.get("name"))
        if "{port}" not in command and str(port) not in command:
            mend = "write {port} where its command wants the port"
            yield document.warning((*at, "command"), f"does not mention port {port}", mend)


def openai_keys(document: Document) -> Iterator[Problem]:
    for loc, expert in document.items("experts"):
        if wants_openai_key(expert):
            yield no_key(document, (*loc, "api_key"), OPENAI_KEY)


def wants_openai_key(expert: Any) -> bool:
    """Whether an expert lives at api.openai.com and says nothing about its key."""
    if not isinstance(expert, dict) or expert.get("provider", "openai") != "openai":
        return False
    return expert.get("base_url") is None and expert.get("api_key") is None


def prices(document: Document) -> Iterator[Problem]:
    for loc, expert in document.items("experts"):
        if not isinstance(expert, dict) or _is_local(expert):
            continue
        if (*loc, "base_url") in document.unset:  # it may turn out to be local
            continue
        if not expert.get("input_per_mtok", 0) and not expert.get("output_per_mtok", 0):
            mend = "set `input_per_mtok` and `output_per_mtok` (US$ per million tokens)"
            free = "costs nothing, so routers will prefer it"
            yield document.warning(loc, free, mend)


def _is_local(expert: Mapping[str, Any]) -> bool:
    url = expert.get("base_url")
    if not isinstance(url, str):
        return bool(expert.get("provider", "openai") != "openai")
    try:
        return is_loopback(urlsplit(url).hostname)
    except ValueError:
        return True


def verify_prompts(document: Document) -> Iterator[Problem]:
    for loc, _ in document.items("experts"):
        prompt = document.get(*loc, "verify_prompt")
        if not isinstance(prompt, str):
            continue
        if lacks := [part for part in ("{question}", "{answer}") if part not in prompt]:
            what = f"has no {' and no '.join(lacks)}"
            mend = "say where question and answer go: {question} and {answer}"
            yield document.problem((*loc, "verify_prompt"), what, mend)


def useful_data_classes(document: Document) -> Iterator[Problem]:
    for loc, _ in document.items("experts"):
        if document.get(*loc, "data_classes") == []:
            mend = "name what may reach it, or remove the expert"
            yield document.warning((*loc, "data_classes"), "lets nothing reach this expert", mend)


# -- the server --------------------------------------------------------------------------------


def exposure(document: Document) -> Iterator[Problem]:
    host = document.get("server", "host")
    if isinstance(host, str) and not is_loopback(host) and not document.get("server", "api_keys"):
        mend = "add `api_keys: [${ROUTEWRIGHT_KEY}]`, or keep to host 127.0.0.1"
        open_door = "lets every machine that reaches it spend your money: there are no api_keys"
        yield document.warning(("server", "host"), open_door, mend)


def kept_answers(document: Document) -> Iterator[Problem]:
    if document.get("server", "feedback_answers") and not document.get("server", "feedback"):
        mend = "add `feedback: feedback.jsonl`, or remove this"
        nowhere = "keeps nothing without `feedback`"
        yield document.warning(("server", "feedback_answers"), nowhere, mend)


def served_default(document: Document) -> Iterator[Problem]:
    wanted = document.get("server", "default_data_class") or "public"
    served = [
        expert.get("data_classes", ["public"])
        for _, expert in document.items("experts")
        if isinstance(expert, dict)
    ]
    if (
        wanted in DATA_CLASSES
        and served
        and not any(isinstance(classes, list) and wanted in classes for classes in served)
    ):
        nobody = f"no expert may see {wanted} text, so queries that name no class are refused"
        mend = f"add {wanted} to the `data_classes` of an expert, or change this"
        yield document.warning(("server", "default_data_class"), nobody, mend)


RULES: tuple[Rule, ...] = (
    version,
    plain_keys,
    some_experts,
    unique_names,
    speakable_names,
    providers,
    base_urls,
    launches,
    openai_keys,
    prices,
    verify_prompts,
    useful_data_classes,
    config_policies.some_policies,
    config_policies.policy_names,
    config_policies.default_policy,
    config_policies.fallbacks,
    config_policies.one_operating_point,
    config_policies.strategies,
    exposure,
    kept_answers,
    served_default,
)
