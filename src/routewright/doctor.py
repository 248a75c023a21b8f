"""Looks for what keeps a config from working: asks each expert, and looks at this machine.

Each check returns findings. A finding says what is wrong and how to put it right.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import shutil
import struct
import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from routewright import drive
from routewright.config import Config, Examination, examine, experts
from routewright.errors import EXTRAS, BadInput, RoutewrightError, UpstreamError
from routewright.experts import permanent
from routewright.experts.client import Client
from routewright.experts.deployments import Endpoints
from routewright.experts.discovery import Reply, list_models
from routewright.registry import choose
from routewright.strategies.fixed import Fixed
from routewright.types import Answer, Ask, Decision, Expert, Query, total_cost

PATIENCE = 5.0  # seconds that a server may take to list its models
MAX_TOKENS = 256  # of an answer; a model that reasons needs some before it answers
MAX_SKEW = 300.0  # seconds between the clocks of this machine and of a server
FEW_BYTES, FEWEST_BYTES = 1 << 30, 100 << 20  # free on the disk: a warning, an error
SHOWN_MODELS = 8  # of those that a server lists
TOOL = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "Tells the time in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """The result of one check. `fix` is the way out; `seconds` and `cost` (US$) are of its ask."""

    check: str
    text: str
    level: Level = "ok"
    fix: str = ""
    expert: str | None = None
    seconds: float | None = None
    cost: float = 0.0


@dataclass(frozen=True)
class Patient:
    """An expert with what its entry in the config says about its key."""

    expert: Expert
    written_key: str | None = None  # as in the file, masked if it is a key itself

    def finding(
        self, check: str, text: str, level: Level = "ok", fix: str = "", **more: Any
    ) -> Finding:
        return Finding(check, text, level, fix, self.expert.name, **more)


async def diagnose(path: Path, ask: bool = True) -> list[Finding]:
    """All findings about a config, its experts and this machine. Without `ask`, nobody is paid."""
    examination = examine(path)
    findings = _config(examination)
    try:
        patients = _patients(examination, experts(path))
    except BadInput:  # `_config` tells the mistakes
        patients = []
    findings += await _experts(patients, ask)
    if examination.config is not None:
        findings += _policies(examination.config)
        findings.append(await _port(examination.config))
    return [*findings, _disk(path.absolute().parent), _extras()]


# --- the config ------------------------------------------------------------------------------


def _config(examination: Examination) -> list[Finding]:
    problems = [
        Finding(
            "config",
            f"line {problem.line}: {problem.where}: {problem.problem}",
            "error" if problem.level == "error" else "warning",
            problem.fix,
        )
        for problem in examination.problems
    ]
    return problems or [Finding("config", "the config has no mistakes")]


def _patients(examination: Examination, pool: Mapping[str, Expert]) -> list[Patient]:
    """The experts to be asked; a deployment is asked as an expert of its own."""
    written = examination.document.written
    patients = []
    for i, expert in enumerate(pool.values()):
        key = written(("experts", i, "api_key"))
        if not expert.deployments:
            patients.append(Patient(replace(expert, retries=0), key))
        for j, endpoint in enumerate(Endpoints(expert).all if expert.deployments else ()):
            name = f"{expert.name}, deployment {endpoint.name}"
            one = replace(endpoint.expert, name=name, deployments=(), retries=0)
            own_key = written(("experts", i, "deployments", j, "api_key"))
            patients.append(Patient(one, own_key or key))
    return patients


def _policies(config: Config) -> list[Finding]:
    from routewright.gateway.policies import Policies

    try:
        names = Policies(config).by_name
    except (RoutewrightError, ImportError) as error:
        fix = "correct the policy, or fit its router again with this release"
        return [Finding("policies", str(error), "error", fix)]
    return [Finding("policies", f"policies can be served: {', '.join(names)}")]


# --- the experts -----------------------------------------------------------------------------


async def _experts(patients: Sequence[Patient], ask: bool) -> list[Finding]:
    async with Client(patient.expert for patient in patients) as client:
        results = await asyncio.gather(*(_expert(patient, client, ask) for patient in patients))
    findings = [finding for own, _ in results for finding in own]
    skews = [skew for _, skew in results if skew is not None]
    return findings + ([_clock(max(skews, key=abs))] if skews else [])


async def _expert(
    patient: Patient, client: Client, ask: bool
) -> tuple[list[Finding], float | None]:
    """The findings about an expert, and by how many seconds its clock is ahead of this one."""
    expert = patient.expert
    reply, skew = None, None
    if expert.provider == "openai" and expert.base_url and expert.launch is None:
        reply = await list_models(expert.base_url, expert.api_key, PATIENCE, expert.proxy)
        if reply.date is not None:
            date = reply.date if reply.date.tzinfo else reply.date.replace(tzinfo=UTC)
            skew = (date - datetime.now(UTC)).total_seconds()
    if not expert.data_classes:
        fix = "name the classes in `data_classes:`, or remove the expert"
        return [patient.finding("answer", "no text may reach it", "warning", fix)], skew
    if not ask:
        return [await _without_asking(patient, client, reply)], skew
    findings = [await _answer(patient, client, reply)]
    if findings[0].level != "error":
        for name in sorted(expert.capabilities or ()):
            findings.append(await _capability(patient, client, name))
    return findings, skew


async def _without_asking(patient: Patient, client: Client, reply: Reply | None) -> Finding:
    expert = patient.expert
    cost = sum(_bound(client, expert, query) for query in _queries(expert))
    asks = len(_queries(expert))
    amount = "an unknown amount" if math.isinf(cost) else f"at most ${cost:.6f}"
    text = f"not asked; {asks} small question{'s' * (asks > 1)} would cost {amount}"
    if reply is None:
        return patient.finding("answer", text)
    if reply.models is None and (reply.status is None or reply.status in (401, 403)):
        return await _explain(patient, UpstreamError(expert.name, reply.fault), reply)
    if reply.models is None and (better := await _other_address(reply, expert)) is not None:
        return better
    if reply.models is not None and (missing := _missing_model(patient, reply)) is not None:
        return replace(missing, level="warning")
    return patient.finding("answer", text)


def _bound(client: Client, expert: Expert, query: Query) -> float:
    return client.bound(Ask(expert.name), query)


async def _answer(patient: Patient, client: Client, reply: Reply | None) -> Finding:
    """Asks one small question."""
    began = time.monotonic()
    try:
        decision = await _decide(client, patient.expert, _queries(patient.expert)[0])
    except RoutewrightError as error:
        finding = await _explain(patient, error, reply)
        return replace(finding, seconds=time.monotonic() - began, cost=total_cost(error.spent))
    answer, seconds = decision.answer, time.monotonic() - began
    more: dict[str, Any] = {"seconds": seconds, "cost": decision.cost}
    tokens = f"{answer.input_tokens} tokens in, {answer.output_tokens} out"
    if not answer.text.strip():
        text = f"its answer is empty ({tokens}, finish_reason {answer.finish_reason})"
        fix = (
            "a model that reasons may need more output tokens; see also the server's chat template"
        )
        return patient.finding("answer", text, "warning", fix, **more)
    text = f"answered {_quote(answer)} in {seconds:.2f} s ({tokens}, ${decision.cost:.6f})"
    if answer.estimated:
        text += "; it reports no usage, so tokens are estimates"
    return patient.finding("answer", text, **more)


async def _capability(patient: Patient, client: Client, name: str) -> Finding:
    """Asks a question that needs a capability which the expert is said to have."""
    began = time.monotonic()
    more: dict[str, Any]
    fix = f"if it cannot do this, write its `capabilities:` without {name}"
    query = _with_capability(patient.expert, name)
    try:
        decision = await _decide(client, patient.expert, query)
    except RoutewrightError as error:
        reason = error.reason if isinstance(error, UpstreamError) else str(error)
        more = {"seconds": time.monotonic() - began, "cost": total_cost(error.spent)}
        return patient.finding(name, f"{name} failed: {reason}", "error", fix, **more)
    more = {"seconds": time.monotonic() - began, "cost": decision.cost}
    if _shows(name, decision.answer):
        return patient.finding(name, f"{name} works (${decision.cost:.6f})", **more)
    text = f"{name} was accepted, but its answer {_quote(decision.answer)} does not show it"
    return patient.finding(name, text, "warning", fix, **more)


def _shows(name: str, answer: Answer) -> bool:
    """Whether an answer shows that the expert used a capability."""
    if name == "tools":
        return bool((answer.message or {}).get("tool_calls"))
    if name == "vision":
        return "red" in answer.text.lower()
    try:
        return isinstance(json.loads(answer.text), dict)
    except (ValueError, RecursionError):
        return False


async def _decide(client: Client, expert: Expert, query: Query) -> Decision:
    return await drive.decide(Fixed(expert.name), query, [expert], client)


def _queries(expert: Expert) -> list[Query]:
    """The questions that an expert is asked: a small one, and one for each capability."""
    plain = _query(expert, "Reply with the single word OK.")
    return [plain, *(_with_capability(expert, name) for name in sorted(expert.capabilities or ()))]


def _query(expert: Expert, content: Any, **options: Any) -> Query:
    """A question that the expert may see, whatever its data classes and its region."""
    data_class: Any = min(expert.data_classes)
    return Query(
        ({"role": "user", "content": content},),
        data_class=data_class,
        region=expert.region,
        options={"max_tokens": MAX_TOKENS, **options},
    )


def _with_capability(expert: Expert, name: str) -> Query:
    if name == "tools":
        return _query(expert, "What time is it in Oslo? Use the tool.", tools=[TOOL])
    if name == "json":
        question = 'Reply with this JSON object and nothing else: {"ok": true}'
        return _query(expert, question, response_format={"type": "json_object"})
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{_red_square()}"}}
    return _query(expert, [{"type": "text", "text": "Which colour is this? One word."}, picture])


def _red_square(side: int = 64) -> str:
    """A red PNG image in Base64."""
    rows = (b"\0" + b"\xff\0\0" * side) * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"".join(chunks)).decode()


def _quote(answer: Answer) -> str:
    text = " ".join(answer.text.split())
    return f"'{text if len(text) <= 40 else f'{text[:40]}…'}'"


# --- what is wrong with an expert --------------------------------------------------------------


async def _explain(patient: Patient, error: RoutewrightError, reply: Reply | None) -> Finding:
    """The most likely cause of a failed ask, with the way out."""
    expert = patient.expert
    if not isinstance(error, UpstreamError):
        return patient.finding("answer", str(error), "error", "change the limits of the expert")
    status = error.status or (reply.status if reply and reply.status in (401, 403) else None)
    if status in (401, 403):
        return _key(patient, error.reason)
    if reply is not None and reply.status is None:
        fix = "start the server, or correct `base_url:`"
        text = f"no answer from {reply.url}: {reply.reason}"
        return patient.finding("address", text, "error", fix)
    no_list = reply is not None and reply.models is None
    if reply is not None and no_list:
        if (better := await _other_address(reply, expert)) is not None:
            return better
    elif reply is not None and (missing := _missing_model(patient, reply)) is not None:
        return missing
    if status == 429 or permanent.cause_of(error) in permanent.OF_ACCOUNTS:
        return _busy(patient, error)
    if status == 404 and "model" in error.reason.lower():
        text = f"the server has no model '{expert.model or expert.name}': {error.reason}"
        return patient.finding("model", text, "error", "correct `model:` in its entry")
    is_page = reply is not None and no_list and "html" in reply.content_type
    if status == 404 or (status is None and is_page):
        kind = f" ({reply.content_type})" if reply and reply.content_type else ""
        text = f"{expert.base_url or expert.provider} does not answer chats: {error.reason}{kind}"
        fix = "correct `base_url:`: mostly it ends with /v1; /chat/completions is added to it"
        return patient.finding("address", text, "error", fix)
    fix = "read the log of its server; `timeout:` limits how long an answer may take"
    if status is not None and status < 500:
        fix = "change what the expert is sent: `model:` or `options:` of its entry"
    return patient.finding("answer", error.reason, "error", fix)


def _key(patient: Patient, reason: str) -> Finding:
    written = patient.written_key
    if patient.expert.api_key is None:
        fix = "set `api_key: ${NAME}` in its entry, and NAME in the environment"
        return patient.finding("key", f"it needs a key, and has none: {reason}", "error", fix)
    where = f"the variable in {written}" if written and written[:1] in "$o" else "its `api_key:`"
    fix = f"put a valid key for this address into {where or 'OPENAI_API_KEY'}"
    return patient.finding("key", f"its key is refused: {reason}", "error", fix)


def _busy(patient: Patient, error: UpstreamError) -> Finding:
    if cause := permanent.cause_of(error):
        fix = f"{cause.fix}: waiting does not help"
        return patient.finding("credit", f"{cause.what}: {error.reason}", "error", fix)
    pause = "later" if error.retry_after is None else f"in {error.retry_after:g} s"
    fix = f"try again {pause}; `fallback:` lets another expert step in meanwhile"
    return patient.finding("answer", f"it is busy: {error.reason}", "warning", fix)


async def _other_address(reply: Reply, expert: Expert) -> Finding | None:
    """The finding that the same address works with, or without, `/v1`."""
    has_suffix = reply.url.endswith("/v1")
    url = reply.url.removesuffix("/v1") if has_suffix else f"{reply.url}/v1"
    other = await list_models(url, expert.api_key, PATIENCE, expert.proxy)
    if other.models is None:
        return None
    how = "without" if has_suffix else "with"
    text = f"its models are {how} /v1: {reply.url}/models answers {reply.fault}"
    return Finding("address", text, "error", f"write `base_url: {url}`", expert.name)


def _missing_model(patient: Patient, reply: Reply) -> Finding | None:
    """The finding that a server does not list the expert's model."""
    model = patient.expert.model or patient.expert.name
    names = [entry.id for entry in reply.models or ()]
    if not names or model in names or f"models/{model}" in names:
        return None
    shown = ", ".join(names[:SHOWN_MODELS])
    rest = len(names) - SHOWN_MODELS
    text = f"the server has no model '{model}': it has {shown}"
    text += f" and {rest} more" if rest > 0 else ""
    advice = choose(model, names).partition(" There are: ")[0]
    fix = f"correct `model:` in its entry{f': {advice}' if 'mean' in advice else ''}"
    return patient.finding("model", text, "error", fix)


# --- this machine ----------------------------------------------------------------------------


def _clock(skew: float) -> Finding:
    if abs(skew) <= MAX_SKEW:
        return Finding("clock", "the clock of this machine agrees with those of the servers")
    direction = "behind" if skew > 0 else "ahead of"
    text = f"the clock of this machine is {abs(skew):.0f} s {direction} that of a server"
    return Finding("clock", text, "warning", "set the clock, as in `timedatectl set-ntp true`")


def _disk(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding("disk", f"'{folder}': {error.strerror}", "error", "check the path")
    text = f"{free / (1 << 30):.1f} GB are free at '{folder}'"
    if free >= FEW_BYTES:
        return Finding("disk", text)
    level: Level = "error" if free < FEWEST_BYTES else "warning"
    return Finding("disk", text, level, "free some space: journals and tables are written there")


async def _port(config: Config) -> Finding:
    from routewright.gateway.server import listen

    host, port = config.server.host, config.server.port
    try:
        listen(host, port).close()
    except BadInput as error:
        local = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
        reply = await list_models(f"http://{local}:{port}/v1", patience=PATIENCE)
        if "auto" in {model.id for model in reply.models or ()}:
            return Finding(
                "port",
                f"a gateway serves on port {port} already; for a second one set another `port:`",
            )
        what, _, fix = str(error).partition("; ")
        fix = "set another `port:` under `server:`, or stop the process that uses it" if fix else ""
        return Finding("port", what, "error", fix or "correct `host:` under `server:`")
    return Finding("port", f"the gateway can listen on {host}:{port}")


def _extras() -> Finding:
    """Which optional packages are installed; serving needs none of them."""
    packages: dict[str, list[str]] = {}
    for package, extra in EXTRAS.items():
        packages.setdefault(extra, []).append(package)
    complete = sorted(extra for extra, names in packages.items() if all(map(_installed, names)))
    missing = sorted({*packages} - {*complete})
    text = f"installed: {', '.join(complete) or 'none'}"
    text += f"; not installed: {', '.join(missing) or 'none'}"
    fix = "to add one: pip install 'routewright[NAME]'" if missing else ""
    return Finding("extras", text, "ok", fix)


def _installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def total(findings: Iterable[Finding]) -> float:
    """The US$ that the findings cost."""
    return math.fsum(finding.cost for finding in findings)
