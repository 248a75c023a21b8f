"""Checks routewright.yaml beyond the types and ranges of its values.

Each rule is a generator that reads the document and yields problems. `RULES`, at the end, lists
them. Rules skip values of the wrong type, which `shape.py` reports, so that every mistake is
reported exactly once.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlsplit

from routewright import __version__
from routewright.config import policies as config_policies
from routewright.config.document import (
    NAME,
    REFERENCE,
    SECRETS,
    Document,
    Loc,
    Problem,
    is_reference,
    no_key,
)
from routewright.registry import choose, names
from routewright.types import DATA_CLASSES

Rule: TypeAlias = Callable[[Document], Iterator[Problem]]

VERSION = 1
HOST_PATTERN = re.compile(r"\*|(\*\.)?[\w-]+(\.[\w-]+)*|\[?[\da-fA-F:]+\]?")
ORIGIN = re.compile(r"[a-z][a-z\d+.-]*://([a-z\d._-]+|\[[\da-f:.]+\])?(:\d+)?")
# Provider ▶ the variable with its key, used if an expert at the vendor's own address has none.
DEFAULT_KEYS = {
    "openai": "OPENAI_API_KEY",
    "responses": "OPENAI_API_KEY",
    "anthropic": "ANTHROPIC_API_KEY",
}
KEY_HEADERS = {"authorization", "x-api-key"}
HOSTED = ("azure", "any_llm", *DEFAULT_KEYS)  # providers whose default address is elsewhere
KEY_HEADER = re.compile(r"auth|key|token|secret|cookie|password", re.IGNORECASE)
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110
FRAMING = {  # headers that belong to the connection, which the client writes itself
    *("connection", "content-length", "expect", "keep-alive", "te", "trailer"),
    *("transfer-encoding", "upgrade"),
}


def is_loopback(host: str | None) -> bool:
    """Whether only this machine can reach a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


# -- the file ----------------------------------------------------------------------------------


def version(document: Document) -> Iterator[Problem]:
    if "version" not in document.data:
        fix = f"write `version: {VERSION}` on the first line"
        yield document.problem(("version",), "is missing", fix)
    elif type(document.get("version")) is not int or document.get("version") != VERSION:
        yield document.problem(
            ("version",),
            "is not a version that this release can read",
            f"write `version: {VERSION}`: routewright {__version__} reads no other",
        )


def plain_keys(document: Document) -> Iterator[Problem]:
    for loc, text in document.scalars.items():
        if not SECRETS & set(loc) or not text:
            continue
        is_header = "headers" in loc
        if is_header:
            plain = not REFERENCE.search(text) and KEY_HEADER.search(str(loc[-1])) is not None
        elif loc[-1] == "proxy":
            plain = not REFERENCE.search(text) and "@" in text
        else:
            plain = not is_reference(text)
        if plain:
            fix = "write ${NAME} and set NAME in the environment"
            yield document.warning(loc, "is a key in plain text", fix)
        if not is_header and re.search(r"\s", str(document.get(*loc))):
            fix = "remove the white space: no server accepts such a key"
            yield document.problem(loc, "holds white space", fix)


# -- experts -----------------------------------------------------------------------------------


def some_experts(document: Document) -> Iterator[Problem]:
    if document.get("experts") == []:
        fix = "add an entry with `name:`, `base_url:` and prices"
        yield document.problem(("experts",), "names no expert", fix)


def unique_names(document: Document) -> Iterator[Problem]:
    first: dict[str, int | None] = {}
    for loc, _ in document.items("experts"):
        name = document.get(*loc, "name")
        if not isinstance(name, str):
            continue
        at = (*loc, "name")
        if name in first:
            duplicate = f"is already the name of the expert on line {first[name]}"
            yield document.problem(at, duplicate, "give each expert its own name")
        first.setdefault(name, document.place(at)[0])


def usable_names(document: Document) -> Iterator[Problem]:
    for loc, _ in document.items("experts"):
        name = document.get(*loc, "name")
        if not isinstance(name, str) or not name:
            continue
        if not NAME.fullmatch(name) or "::" in name:
            fix = "use visible ASCII characters, without space, `>` and `::`"
            yield document.problem((*loc, "name"), "cannot be sent in an HTTP header", fix)
        elif name == "auto" or name.startswith(("routewright/", "router-")):
            models = "`auto`, `routewright/POLICY` and `router-NAME-THRESHOLD`"
            fix = f"choose another name: clients request policies as {models}"
            yield document.problem((*loc, "name"), "is reserved", fix)


def providers(document: Document) -> Iterator[Problem]:
    for loc, _ in document.items("experts"):
        name = document.get(*loc, "provider")
        if isinstance(name, str) and name not in names("providers"):
            fix = choose(name, names("providers"))
            yield document.problem((*loc, "provider"), "is not a provider", fix)


def _addresses(document: Document) -> Iterator[Loc]:
    """Where addresses, keys and headers may stand: in experts and in their deployments."""
    for loc, _ in document.items("experts"):
        yield loc
        yield from (at for at, _ in document.items(*loc, "deployments"))


def base_urls(document: Document) -> Iterator[Problem]:
    for loc in _addresses(document):
        url = document.get(*loc, "base_url")
        if isinstance(url, str) and (mistake := _url_mistake(url)):
            yield document.problem((*loc, "base_url"), *mistake)


def proxies(document: Document) -> Iterator[Problem]:
    for loc in (("server",), *(loc for loc, _ in document.items("experts"))):
        url = document.get(*loc, "proxy")
        if isinstance(url, str) and not _is_proxy(url):
            fix = "write it as in http://USER:PASSWORD@HOST:PORT"
            yield document.problem((*loc, "proxy"), "is not the address of an HTTP proxy", fix)


def _is_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url)
        has_port = parts.port is not None and parts.port > 0
    except ValueError:
        return False
    rest = (parts.path.rstrip("/"), parts.query, parts.fragment)
    is_http = parts.scheme in ("http", "https")
    return is_http and bool(parts.hostname) and has_port and not any(rest) and url.isascii()


def deployments(document: Document) -> Iterator[Problem]:
    for loc, _ in document.items("experts"):
        at = (*loc, "deployments")
        if document.get(*at) is None:
            continue
        if document.get(*at) == []:
            yield document.warning(at, "names no deployment", "remove it, or name one")
        elif document.get(*loc, "launch") is not None:
            fix = "remove one of the two: `launch` runs a single server at `base_url`"
            yield document.problem(at, "cannot be combined with `launch`", fix)
        names: dict[str, Loc] = {}
        for one, _ in document.items(*at):
            name = document.get(*one, "name")
            if isinstance(name, str) and names.setdefault(name, one) != one:
                fix = "give each deployment its own name, or none"
                yield document.problem((*one, "name"), "is already the name of another", fix)


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
    if parts.fragment:
        return "holds a fragment", "remove it: no server sees what follows #"
    if parts.path.rstrip("/").endswith("/chat/completions"):
        return "names one endpoint", "leave out /chat/completions: it is added to the URL"
    return None


def headers(document: Document) -> Iterator[Problem]:
    for loc in _addresses(document):
        for at, value in document.items(*loc, "headers"):
            name = str(at[-1])
            if not HEADER_NAME.fullmatch(name):
                fix = "use letters, digits and - in a header's name"
                yield document.problem(at, "is not the name of a header", fix, key=True)
            elif name.lower() in FRAMING:
                fix = "remove it: the client writes it itself"
                yield document.problem(at, "belongs to the connection", fix, key=True)
            elif isinstance(value, str) and re.search(r"[^\t\x20-\x7e\xa0-\xff]", value):
                fix = "remove line breaks, control characters and what is not Latin-1"
                yield document.problem(at, "cannot be sent in an HTTP header", fix)


def launches(document: Document) -> Iterator[Problem]:
    """A launched expert needs an address on this machine with a port of its own."""
    names: dict[int, Any] = {}
    for loc, expert in document.items("experts"):
        at, command = (*loc, "launch"), document.get(*loc, "launch", "command")
        if not isinstance(command, str) or not isinstance(expert, dict):
            continue
        try:
            shlex.split(command)
        except ValueError as error:
            problem = f"cannot be split into words: {error}"
            yield document.problem((*at, "command"), problem.lower(), "close the quotes")
        url = document.get(*loc, "base_url")
        if (*loc, "base_url") in document.unset:
            continue
        if not isinstance(url, str) or _url_mistake(url):
            if url is None:
                fix = "add `base_url: http://127.0.0.1:PORT/v1` with the port that it listens on"
                yield document.problem(at, "needs a `base_url` for the expert", fix)
            continue
        port = urlsplit(url).port
        if port is None or not _is_local(expert):
            fix = "write http://127.0.0.1:PORT/v1, or remove `launch` if the server runs elsewhere"
            problem = "is not a port of this machine, where `launch` starts the server"
            yield document.problem((*loc, "base_url"), problem, fix)
            continue
        if port in names:
            fix = "give each launched expert a port of its own"
            problem = f"has the port of expert '{names[port]}', which is also launched"
            yield document.problem((*loc, "base_url"), problem, fix)
        names.setdefault(port, expert.get("name"))
        if "{port}" not in command and str(port) not in command:
            fix = "write {port} where the command needs the port"
            yield document.warning((*at, "command"), f"does not mention port {port}", fix)


def vendor_keys(document: Document) -> Iterator[Problem]:
    for loc, name in without_key(document):
        yield no_key(document, (*loc, "api_key"), name)


def without_key(document: Document) -> Iterator[tuple[Loc, str]]:
    """The experts, or their deployments, that are at their vendor's own address and have no
    `api_key`, each with the variable that holds it by default."""
    for loc, expert in document.items("experts"):
        if not isinstance(expert, dict):
            continue
        members = list(document.items(*loc, "deployments")) or [(loc, expert)]
        for at, entry in members:
            if isinstance(entry, dict) and (name := _default_key(_merged(expert, entry))):
                yield at, name


def _merged(expert: Mapping[str, Any], deployment: Mapping[str, Any]) -> dict[str, Any]:
    """What holds at a deployment: its own values, and else those of the expert."""
    own = {key: value for key, value in deployment.items() if value is not None}
    both = [part.get("headers") for part in (expert, deployment)]
    headers = {k: v for part in both if isinstance(part, dict) for k, v in part.items()}
    return {**expert, **own, "headers": headers}


def _default_key(entry: Mapping[str, Any]) -> str | None:
    """The variable with the key of an entry that needs one and has none."""
    if KEY_HEADERS & {str(name).lower() for name in entry["headers"]}:
        return None
    if entry.get("base_url") is not None or entry.get("api_key") is not None:
        return None
    return DEFAULT_KEYS.get(str(entry.get("provider", "openai")))


def azure(document: Document) -> Iterator[Problem]:
    """At Azure nothing can be guessed: neither the address, nor the key, nor a dated version."""
    for loc, expert in document.items("experts"):
        if not isinstance(expert, dict) or expert.get("provider") != "azure":
            continue
        for at, entry in list(document.items(*loc, "deployments")) or [(loc, expert)]:
            if isinstance(entry, dict):
                yield from _azure_mistakes(document, at, _merged(expert, entry))


def _azure_mistakes(document: Document, loc: Loc, entry: Mapping[str, Any]) -> Iterator[Problem]:
    url, options = entry.get("base_url"), entry.get("options")
    if url is None:
        fix = "add `base_url: https://NAME.openai.azure.com`"
        yield document.problem(loc, "needs a `base_url`: each resource at Azure has its own", fix)
    names = {str(name).lower() for name in entry["headers"]}
    if entry.get("api_key") is None and not {"api-key", "authorization"} & names:
        fix = "add `api_key: ${AZURE_OPENAI_API_KEY}`, or `headers: {authorization: …}`"
        yield document.problem(loc, "has no key for Azure", fix)
    if not isinstance(url, str) or _url_mistake(url):
        return
    parts = urlsplit(url)
    versions = [value for name, value in parse_qsl(parts.query) if name == "api-version"]
    own = options.get("api_version") if isinstance(options, dict) else None
    if own is not None and not isinstance(own, str):
        fix = "put it in quotes, as in `api_version: '2024-10-21'`"
        yield document.problem((*loc[:2], "options", "api_version"), "must be text", fix)
    elif own and versions and own != versions[0]:
        fix = "write it in one of the two places"
        where = (*loc[:2], "options", "api_version")
        yield document.problem(where, "is not the `api-version` of `base_url`", fix)
    elif "/deployments/" in parts.path and not own and not versions:
        fix = "add `?api-version=2024-10-21` to it, or `options: {api_version: '2024-10-21'}`"
        at = (*loc, "base_url") if (*loc, "base_url") in document.values else loc
        yield document.problem(at, "needs an api-version", fix)


def any_llm(document: Document) -> Iterator[Problem]:
    """The service is a part of the model's name; `headers` and a proxy cannot be passed on."""
    for loc, expert in document.items("experts"):
        if not isinstance(expert, dict) or expert.get("provider") != "any_llm":
            continue
        model = expert.get("model") or expert.get("name")
        if isinstance(model, str):
            from routewright.experts.providers.any_llm import mistake

            if problem := mistake(model):
                yield document.problem((*loc, "model"), *problem)
        for at in (loc, *(at for at, _ in document.items(*loc, "deployments"))):
            if document.get(*at, "headers"):
                fix = "use `options: {client_args: {…}}`, the arguments of the service's SDK"
                yield document.problem((*at, "headers"), "cannot be sent by any_llm", fix, key=True)
        proxy = expert["proxy"] if "proxy" in expert else document.get("server", "proxy")
        if proxy is not None:
            fix = "write `proxy: null` in its entry to ask it without the proxy"
            yield document.problem(loc, "cannot be asked by a proxy: any_llm uses none", fix)


def prices(document: Document) -> Iterator[Problem]:
    for loc, expert in document.items("experts"):
        if not isinstance(expert, dict) or _is_local(expert):
            continue
        if (*loc, "base_url") in document.unset:  # its value may be local
            continue
        if not expert.get("input_per_mtok", 0) and not expert.get("output_per_mtok", 0):
            fix = "set `input_per_mtok` and `output_per_mtok` (US$ per million tokens)"
            problem = "costs nothing, so routers will prefer it"
            yield document.warning(loc, problem, fix)


def _is_local(expert: Mapping[str, Any]) -> bool:
    if isinstance(members := expert.get("deployments"), list) and members:
        entries = [_merged(expert, one) for one in members if isinstance(one, dict)]
        return all(_is_local({**entry, "deployments": None}) for entry in entries)
    url = expert.get("base_url")
    if not isinstance(url, str):
        return str(expert.get("provider", "openai")) not in HOSTED
    try:
        return is_loopback(urlsplit(url).hostname)
    except ValueError:
        return True


def verify_prompts(document: Document) -> Iterator[Problem]:
    for loc, _ in document.items("experts"):
        prompt = document.get(*loc, "verify_prompt")
        if not isinstance(prompt, str):
            continue
        if missing := [part for part in ("{question}", "{answer}") if part not in prompt]:
            problem = f"has no {' and no '.join(missing)}"
            fix = "write {question} and {answer} where question and answer go"
            yield document.problem((*loc, "verify_prompt"), problem, fix)


def useful_data_classes(document: Document) -> Iterator[Problem]:
    for loc, _ in document.items("experts"):
        if document.get(*loc, "data_classes") == []:
            fix = "name the classes that it may receive, or remove the expert"
            yield document.warning((*loc, "data_classes"), "lets nothing reach this expert", fix)


# -- the server --------------------------------------------------------------------------------


def exposure(document: Document) -> Iterator[Problem]:
    host = document.get("server", "host")
    if isinstance(host, str) and not is_loopback(host) and not document.get("server", "api_keys"):
        fix = "add `api_keys: [${ROUTEWRIGHT_KEY}]`, or use host 127.0.0.1"
        risk = "lets anyone who can reach it spend your money: there are no api_keys"
        yield document.warning(("server", "host"), risk, fix)


def allowed_hosts(document: Document) -> Iterator[Problem]:
    for loc, host in document.items("server", "allowed_hosts"):
        if isinstance(host, str) and host and not HOST_PATTERN.fullmatch(host):
            fix = "write a name as in gateway.example.com or *.example.com, without scheme and port"
            yield document.problem(loc, "is not a host name", fix)


def cors_origins(document: Document) -> Iterator[Problem]:
    has_keys = bool(document.get("server", "api_keys"))
    for loc, origin in document.items("server", "cors_origins"):
        if not isinstance(origin, str) or not origin:
            continue
        if origin == "*" and not has_keys:
            fix = "name the origins, or set `api_keys`"
            yield document.problem(loc, "lets every web page spend your money", fix)
        elif origin == "null":
            problem = "stands for any page in a sandboxed frame"
            fix = "let the application call from outside a page, or give it an origin of its own"
            yield document.problem(loc, problem, fix)
        elif origin != "*" and not ORIGIN.fullmatch(origin):
            fix = "write it as in https://chat.example.com, without a path and in small letters"
            yield document.problem(loc, "is not the origin of a web page", fix)


def feedback_answers(document: Document) -> Iterator[Problem]:
    if document.get("server", "feedback_answers") and not document.get("server", "feedback"):
        fix = "add `feedback: feedback.jsonl`, or remove this key"
        problem = "has no effect without `feedback`"
        yield document.warning(("server", "feedback_answers"), problem, fix)


def servable_default(document: Document) -> Iterator[Problem]:
    data_class = document.get("server", "default_data_class") or "public"
    accepted = [
        expert.get("data_classes", ["public"])
        for _, expert in document.items("experts")
        if isinstance(expert, dict)
    ]
    if (
        data_class in DATA_CLASSES
        and accepted
        and not any(isinstance(classes, list) and data_class in classes for classes in accepted)
    ):
        problem = f"no expert may see {data_class} text, so queries without a class are refused"
        fix = f"add {data_class} to the `data_classes` of an expert, or change this value"
        yield document.warning(("server", "default_data_class"), problem, fix)


def windows(document: Document) -> Iterator[Problem]:
    for loc, _ in document.items("experts"):
        window = document.get(*loc, "window")
        if isinstance(window, dict) and not {"requests", "tokens"} & window.keys():
            fix = "add `requests:` or `tokens:`, or remove this key"
            yield document.problem((*loc, "window"), "allows nothing and forbids nothing", fix)


RULES: tuple[Rule, ...] = (
    version,
    plain_keys,
    some_experts,
    unique_names,
    usable_names,
    providers,
    base_urls,
    proxies,
    deployments,
    headers,
    launches,
    vendor_keys,
    azure,
    any_llm,
    prices,
    verify_prompts,
    useful_data_classes,
    windows,
    config_policies.some_policies,
    config_policies.policy_names,
    config_policies.default_policy,
    config_policies.fallbacks,
    config_policies.one_operating_point,
    config_policies.ties,
    config_policies.pacing,
    config_policies.strategies,
    exposure,
    allowed_hosts,
    cors_origins,
    feedback_answers,
    servable_default,
)
