"""Reads routewright.yaml: the experts, the policies that choose among them, and the server.

`load` returns a valid `Config` or raises BadConfig with every mistake. `examine` returns the
mistakes themselves, each with its line. `python -m routewright.config` prints the JSON Schema
for editors.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from routewright import files, registry
from routewright.config import shape as config_shape
from routewright.config.document import Document, Loc, Problem, read
from routewright.config.rules import RULES, without_key
from routewright.errors import BadConfig, BadInput
from routewright.experts import prices
from routewright.types import DataClass, Deployment, Expert, Launch, Window

DEFAULT_URLS = {  # by provider
    "openai": "https://api.openai.com/v1",
    "responses": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
}
MOST_LISTED = 100  # mistakes in a message
NO_STORE = "none"
STORES = ("sqlite:///", "postgresql://", "postgresql+psycopg://")
STORE = "sqlite:///routewright.db"
SCHEMA = "https://json-schema.org/draft/2020-12/schema"

PRICE_LISTS = (prices.BY_MODEL, prices.NO_LIST)

Capability = Literal[  # as in experts.limits: EVERYTHING, then BUILT_IN_TOOLS
    "json",
    "tools",
    "vision",
    "apply_patch",
    "bash",
    "code_execution",
    "code_interpreter",
    "computer",
    "file_search",
    "image_generation",
    "local_shell",
    "mcp",
    "memory",
    "shell",
    "text_editor",
    "tool_search",
    "web_fetch",
    "web_search",
]


def _no_bool(value: object) -> object:
    """Refuses truth values, because YAML's `yes` would count as 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "must be a number")
    return value


DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)([smhd])")
PERCENT = re.compile(r"(\d{1,9}(?:\.\d{1,9})?) ?%")


def _part(value: object) -> object:
    """Reads `50%` as 0.5, and refuses 50, which may have meant either."""
    if isinstance(value, str) and (match := PERCENT.fullmatch(value.strip())):
        value = float(match[1]) / 100
    if isinstance(value, int | float) and value > 1:
        percent, part = (f"{value:g}%", f"{value / 100:g}") if value <= 100 else ("50%", "0.5")
        fix = f"write {percent} or {part}"
        raise PydanticCustomError("part_of_one", "must be at most 1, or 100%", {"fix": fix})
    return value


def _duration(value: object) -> object:
    """Reads `5h` as 18000 seconds."""
    if isinstance(value, str) and (match := DURATION.fullmatch(value.strip())):
        return float(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[match[2]]
    raise PydanticCustomError("duration", "must be a time such as 30m, 5h or 7d")


def _store(value: SecretStr) -> SecretStr:
    """Refuses what is no URL of a store; the gateway tells whether it can be used."""
    url = value.get_secret_value()
    if url != NO_STORE and not url.startswith(STORES):
        raise PydanticCustomError("store", "must be sqlite:///FILE, postgresql://… or none")
    return value


NO_BOOL = BeforeValidator(_no_bool)
Text = Annotated[str, Field(min_length=1)]
Secret = Annotated[SecretStr, Field(min_length=1)]
StoreUrl = Annotated[SecretStr, Field(min_length=1), AfterValidator(_store)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False), NO_BOOL]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False), NO_BOOL]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), NO_BOOL]
Fraction = Annotated[float, Field(gt=0, le=1), NO_BOOL]
PartText = Annotated[str, Field(pattern=f"^{PERCENT.pattern}$")]
Part = Annotated[  # 0.5, or 50%
    float,
    Field(gt=0, le=1),
    BeforeValidator(_part, json_schema_input_type=Fraction | PartText),
    NO_BOOL,
]
Duration = Annotated[  # in seconds; written as 30m, 5h or 7d
    float,
    Field(gt=0),
    BeforeValidator(
        _duration, json_schema_input_type=Annotated[str, Field(pattern=f"^{DURATION.pattern}$")]
    ),
]
Count = Annotated[int, Field(ge=0), NO_BOOL]
PositiveCount = Annotated[int, Field(gt=0), NO_BOOL]
Port = Annotated[int, Field(ge=0, le=65535), NO_BOOL]


class Section(BaseModel):
    """A part of the file. Unknown keys are mistakes, and errors never quote a value."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class LaunchConfig(Section):
    """The server of an expert that Routewright runs itself."""

    command: Text = Field(
        description="It runs the server in the foreground; {port} is the port of `base_url`."
    )
    start: Literal["demand", "serve"] = Field(
        default="demand",
        description="Start with the first request (`demand`) or with the gateway (`serve`).",
    )
    folder: Path = Field(
        default=Path(), description="The working directory, relative to this file's folder."
    )
    env: dict[str, str] = Field(
        default={},
        description="Environment variables in addition to the gateway's own.",
        repr=False,
    )
    ready: Text | None = Field(
        default=None,
        description="A path that returns 200 once it is ready; default: /health, else the models.",
    )
    patience: Positive = Field(
        default=600.0, description="Seconds that the server may take to become ready."
    )
    wait: Positive = Field(
        default=30.0,
        description="Seconds that a request waits for the server; then a fallback is asked.",
    )
    idle: Positive | None = Field(
        default=None, description="Seconds without a request after which the server is stopped."
    )
    restarts: Count = Field(default=3, description="Restarts in a row after crashes.")
    grace: Positive = Field(
        default=10.0, description="Seconds between the request to stop and the kill."
    )

    def launch(self, base_url: str, folder: Path, file: Path | None = None) -> Launch:
        """The `Launch` of the expert, with the command split into words and the port filled in."""
        port = str(urlsplit(base_url).port or "")
        fields = self.model_dump(exclude={"command", "folder"})
        words = shlex.split(self.command)
        command = tuple(word.replace("{port}", port) for word in words)
        own_folder = (folder / self.folder).absolute()
        config = "" if file is None else files.relative(file, own_folder)
        return Launch(command, folder=str(own_folder), config=config, **fields)


class WindowConfig(Section):
    """What a subscription allows in a window of time."""

    requests: PositiveCount | None = Field(default=None, description="Requests per window.")
    tokens: PositiveCount | None = Field(
        default=None, description="Input and output tokens per window."
    )
    per: Duration = Field(description="The length of the window: 30m, 5h or 7d.")

    def window(self) -> Window:
        """The `Window` that the gateway counts."""
        return Window(self.per, self.requests, self.tokens)


class DeploymentConfig(Section):
    """One endpoint, or one key, of an expert's model. What it does not name is the expert's."""

    base_url: Text | None = Field(
        default=None, description="The address of this endpoint.", repr=False
    )
    api_key: Secret | None = Field(default=None, description="The key for this endpoint.")
    headers: dict[str, str | None] = Field(
        default={}, description="Headers for this endpoint, beside the expert's.", repr=False
    )
    weight: Positive = Field(
        default=1.0, description="Its share of the requests, relative to that of the others."
    )
    max_concurrency: PositiveCount | None = Field(
        default=None, description="Requests that may be in progress there."
    )
    rpm: PositiveCount | None = Field(
        default=None, description="Requests per minute that may be sent there."
    )
    tpm: PositiveCount | None = Field(
        default=None, description="Input and output tokens per minute that it may take."
    )
    name: Text | None = Field(default=None, description="Its name in the log; default: its number.")

    def deployment(self) -> Deployment:
        """The `Deployment` that the client uses."""
        fields = self.model_dump(exclude={"api_key", "name"})
        key = self.api_key.get_secret_value() if self.api_key else None
        return Deployment(self.name or "", api_key=key, **fields)


class ExpertConfig(Section):
    """A model that may be asked."""

    name: Text = Field(description="The unique name, used by clients and outcome tables.")
    provider: Text = Field(
        default="openai",
        description="The code that calls it: `openai` for every OpenAI-compatible endpoint,"
        " `anthropic` for Anthropic's Messages.",
    )
    base_url: Text | None = Field(
        default=None,
        description="The address of the endpoint; default with provider `openai`: api.openai.com,"
        " with `anthropic`: api.anthropic.com.",
        repr=False,
    )
    model: Text | None = Field(
        default=None, description="The model's name at the endpoint; default: `name`."
    )
    api_key: Secret | None = Field(
        default=None,
        description="${NAME} or os.environ/NAME; default at api.openai.com: ${OPENAI_API_KEY}, at"
        " api.anthropic.com: ${ANTHROPIC_API_KEY}.",
    )
    headers: dict[str, str | None] = Field(
        default={},
        description="HTTP headers that are sent with every request; null removes one.",
        repr=False,
    )
    proxy: Secret | None = Field(
        default=None,
        description="The HTTP proxy on the way to it; default: `server.proxy`; null: none.",
    )
    deployments: list[DeploymentConfig] = Field(
        default=[], description="Several endpoints or keys of this one model."
    )
    max_concurrency: PositiveCount | None = Field(
        default=None,
        description="Requests to it that may be in progress; others wait for them.",
    )
    window: WindowConfig | None = Field(
        default=None, description="What a subscription allows in a window of time."
    )
    input_per_mtok: Price = Field(default=0.0, description="US$ per million input tokens.")
    cached_input_per_mtok: Price | None = Field(
        default=None,
        description="US$ per million input tokens read from a cache; default: `input_per_mtok`.",
    )
    cache_write_per_mtok: Price | None = Field(
        default=None,
        description="US$ per million input tokens written to a cache; default: `input_per_mtok`.",
    )
    cache_seconds: Positive = Field(
        default=300.0, description="Seconds that it keeps an input cached after its last use."
    )
    output_per_mtok: Price = Field(default=0.0, description="US$ per million output tokens.")
    price_list: Text = Field(
        default=prices.BY_MODEL,
        description="Prices, window and capabilities that are not named here come from the price"
        " list: `litellm` looks up model and host, `none` takes nothing, or the name of an entry.",
    )
    context_window: PositiveCount | None = Field(
        default=None, description="Tokens that it can read; without it, no query is too long."
    )
    capabilities: frozenset[Capability] | None = Field(
        default=None,
        description="All its capabilities beyond text; without it, they are those of the price"
        " list, else unknown, and it may be asked for any.",
    )
    data_classes: frozenset[DataClass] = Field(
        default=frozenset({"public"}), description="The data classes that it may receive."
    )
    region: Text | None = Field(
        default=None,
        description="Where it runs; a query with a region goes only to experts of that region.",
    )
    latency: Positive | None = Field(
        default=None, description="Seconds that a typical answer takes."
    )
    timeout: Positive = Field(
        default=60.0, description="Seconds that a complete answer may take; of a stream: to begin."
    )
    silence: Positive | None = Field(
        default=None,
        description="Seconds of a stream without a byte; default: 60, or half a longer `timeout`.",
    )
    retries: Count = Field(
        default=2, description="Further attempts after a failure before the first byte."
    )
    verify_prompt: Text | None = Field(
        default=None,
        description="The prompt for verifications; it must hold {question} and {answer}.",
    )
    options: dict[str, Any] = Field(
        default={}, description="Fields that are sent with every request.", repr=False
    )
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = Field(
        default=None,
        description="The endpoint's name of the output limit; default: by the model's name.",
    )
    developer_role: bool | None = Field(
        default=None,
        description="Whether it knows messages with the role `developer`; default: by the model.",
    )
    launch: LaunchConfig | None = Field(
        default=None, description="How Routewright starts the server of the expert."
    )

    def expert(
        self, folder: Path = Path(), proxy: Secret | None = None, file: Path | None = None
    ) -> Expert:
        """The `Expert` that strategies and clients use.

        `folder` is that of the `file`, and `proxy` the server's. A server that Routewright launches
        is on this machine, so that proxy does not hold for it.
        """
        own = {"api_key", "model", "base_url", "launch", "price_list", "proxy", "deployments"}
        own |= {"window"}
        fields = self.model_dump(exclude=own)
        if "proxy" in self.model_fields_set or self.launch is not None:
            proxy = self.proxy
        default_url = DEFAULT_URLS.get(self.provider)
        return Expert(
            **fields,
            model=self.model or self.name,
            base_url=self.base_url or default_url,
            api_key=self.api_key.get_secret_value() if self.api_key else None,
            launch=self.launch.launch(self.base_url or "", folder, file) if self.launch else None,
            proxy=proxy.get_secret_value() if proxy else None,
            deployments=tuple(entry.deployment() for entry in self.deployments),
            window=self.window.window() if self.window else None,
        )


class PolicyConfig(Section):
    """A strategy with its settings; clients request it as the model `routewright/POLICY`."""

    strategy: Text = Field(description="The name of the strategy.")
    router: Path | None = Field(
        default=None, description="The folder of a fitted router, relative to this file's folder."
    )
    price: Price | None = Field(
        default=None,
        description="λ: quality (0 to 1) that one US$ must buy; 0 requests the best answer.",
    )
    latency_price: Price | None = Field(
        default=None, description="μ: quality (0 to 1) that one second less must be worth."
    )
    max_cost: Positive | None = Field(
        default=None, description="Mean US$ per query; chooses a point of the router's frontier."
    )
    max_cost_fraction: Part | None = Field(
        default=None,
        description="The same, relative to always asking the most expensive expert: 0.5 or 50%.",
    )
    min_quality: Fraction | None = Field(
        default=None,
        description="Expected quality (0 to 1); chooses the cheapest point that reaches it.",
    )
    tie: Literal["cheapest"] | None = Field(
        default=None,
        description="At λ = 0: `cheapest` serves the cheapest expert within noise of the best.",
    )
    pace: bool = Field(
        default=False,
        description="Whether the budget is kept on whatever traffic comes: λ then follows what was"
        " really spent.",
    )
    fallback: list[Text] = Field(
        default=[], description="Experts that are asked in this order if the chosen one fails."
    )
    sticky: Literal["session", "always", "none"] = Field(
        default="session",
        description="Who goes on in a conversation: `session` keeps the expert while tools run, and"
        " between turns counts what its cache saves; `always` keeps it; `none` forgets it.",
    )
    embeddings: Text | None = Field(
        default=None, description="The expert that makes embeddings for clients of this policy."
    )
    options: dict[str, Any] = Field(
        default={}, description="The settings of the strategy.", repr=False
    )

    def spec(self) -> dict[str, Any]:
        """The strategy, its options and its prices, as `strategies.build` takes them."""
        prices = {"price": self.price, "latency_price": self.latency_price}
        given = {name: price for name, price in prices.items() if price is not None}
        return {"strategy": self.strategy, **self.options, **given}


class PiiConfig(Section):
    """How personal data in prompts is found (extra `pii`), and what follows."""

    raise_to: Literal["internal", "restricted"] = Field(
        default="restricted", description="The data class that such a text gets at least."
    )
    entities: list[Text] = Field(
        default=[
            *("CREDIT_CARD", "EMAIL_ADDRESS", "IBAN_CODE", "MEDICAL_LICENSE", "PERSON"),
            *("PHONE_NUMBER", "UK_NHS", "US_SSN"),
        ],
        min_length=1,
        description="What counts, by Presidio's names; PERSON needs a `model`.",
    )
    score: Fraction = Field(default=0.4, description="How sure Presidio must be, 0 to 1.")
    language: Text = Field(default="en", description="The language of the patterns.")
    model: Text | None = Field(
        default=None, description="A model of spaCy that is installed, as en_core_web_lg."
    )


class RecordsConfig(Section):
    """Which texts the store keeps of decisions."""

    prompts: Literal["none", "redacted", "full"] = Field(
        default="none",
        description="Whether prompts and answers are kept: `redacted` replaces addresses, numbers"
        " and keys in them.",
    )
    retention_days: Positive = Field(
        default=30.0,
        description="Days after which decisions and their texts are deleted.",
    )
    restricted: Literal["none", "redacted", "full"] = Field(
        default="none", description="The same as `prompts` for the data class `restricted`."
    )
    internal: Literal["none", "redacted", "full"] | None = Field(
        default=None, description="For the data class `internal`; default: that of `prompts`."
    )

    def of(self, data_class: DataClass) -> str:
        """What is kept of texts of a data class."""
        if data_class == "restricted":
            return self.restricted
        if data_class == "internal" and self.internal is not None:
            return self.internal
        return self.prompts


class ResponsesConfig(Section):
    """Which responses the store keeps, so that later requests may continue them."""

    store: bool = Field(
        default=True,
        description="Whether responses are kept unless a request says `store: false`; texts of the"
        " data class `restricted` only with `records.restricted: full`.",
    )
    retention_days: Positive = Field(
        default=30.0,
        description="Days after which a response is deleted, or the last one that continues it.",
    )


class ServerConfig(Section):
    """The address and limits of the gateway."""

    host: Text = Field(default="127.0.0.1", description="The address that the gateway listens on.")
    port: Port = Field(
        default=4100, description="The port that the gateway listens on; 0 takes a free one."
    )
    api_keys: list[Secret] = Field(
        default=[],
        description="Bearer keys, of which clients must send one; empty: no key is required.",
    )
    admin_key: Secret | None = Field(
        default=None,
        description="The bearer key of /admin; without one, only keys made with `routewright keys"
        " create --admin` open it.",
    )
    allowed_hosts: list[Text] = Field(
        default=[],
        description="Names by which clients may call the gateway, as in `*.example.com`, besides"
        " localhost; empty: none if `host` is a loopback address, else any.",
    )
    cors_origins: list[Text] = Field(
        default=[],
        description="Origins of web pages that may use the gateway, as in https://chat.example.com.",
    )
    default_data_class: DataClass = Field(
        default="public", description="The data class of a query without one."
    )
    proxy: Secret | None = Field(
        default=None,
        description="The HTTP proxy on the way to experts, as in `http://USER:PASSWORD@HOST:PORT`;"
        " none is taken from the environment.",
    )
    max_concurrency: PositiveCount = Field(
        default=512, description="Requests that may ask experts at once; others wait."
    )
    queue: Count = Field(
        default=1024, description="Requests that may wait for it; beyond that, clients get a 429."
    )
    idle_seconds: Positive = Field(
        default=75.0, description="Seconds after which an idle connection of a client is closed."
    )
    linger_seconds: Seconds = Field(
        default=5.0,
        description="Seconds after SIGTERM in which new requests are still answered.",
    )
    drain_seconds: Seconds = Field(
        default=30.0,
        description="Seconds after a signal to stop in which requests in progress may finish.",
    )
    max_body_bytes: PositiveCount = Field(
        default=10 * 2**20, description="The largest accepted request, in bytes."
    )
    traces: bool = Field(
        default=False,
        description="Whether spans go to the OpenTelemetry collector that the OTEL_* variables of"
        " the environment name; needs `routewright[otel]`.",
    )
    keep_alive_seconds: Seconds = Field(
        default=15.0,
        description="Seconds without an event after which a stream gets a comment; 0: never.",
    )
    store: StoreUrl | None = Field(
        default=None,
        description="The database of decisions, keys and budgets: `postgresql+psycopg://…` for"
        " several gateways; default: `sqlite:///routewright.db`, beside this file; `none` keeps"
        " nothing.",
        repr=False,
    )
    grace_seconds: Seconds = Field(
        default=60.0,
        description="Seconds in which requests of keys with limits go on by what is known while"
        " the store cannot be used; then they are refused.",
    )
    records: RecordsConfig = Field(
        default=RecordsConfig(), description="Which texts the store keeps, and for how long."
    )
    pii: PiiConfig | None = Field(
        default=None, description="Personal data in prompts is found, and makes them stricter."
    )
    responses: ResponsesConfig = Field(
        default=ResponsesConfig(),
        description="Whether and how long responses are kept for `previous_response_id`.",
    )
    dashboard: bool = Field(
        default=True, description="Whether `/` is a dashboard for people; it wants a key, if any."
    )
    feedback: Path | None = Field(
        default=None,
        description="The file for scored decisions and their query texts, readable by `fit`.",
    )
    feedback_answers: bool = Field(
        default=False,
        description="Whether the file also gets the answer texts, which `dedicate grow` needs.",
    )


class Config(Section):
    """The contents of a routewright.yaml."""

    version: Literal[1] = Field(description="The version of the file format.")
    experts: list[ExpertConfig] = Field(description="The models that may be asked.")
    policies: dict[str, PolicyConfig] = Field(
        default={}, description="The policies by name; at least one."
    )
    default_policy: Text | None = Field(
        default=None,
        description="The policy behind the model name `auto`; default: the first policy.",
    )
    server: ServerConfig = Field(
        default=ServerConfig(), description="The address and limits of the gateway."
    )
    price_list: Path | None = Field(
        default=None,
        description="A price file in LiteLLM's format, relative to this file's folder; default:"
        " the dated extract that is shipped.",
    )
    _folder: Path | None = PrivateAttr(default=None)
    _file: Path | None = PrivateAttr(default=None)
    _from_price_list: tuple[str, ...] = PrivateAttr(default=())

    @model_validator(mode="after")
    def _first_policy(self) -> Config:
        self.default_policy = self.default_policy or next(iter(self.policies), None)
        return self

    @property
    def folder(self) -> Path:
        """The folder of the file; relative paths in the file start here."""
        return self._folder or Path()

    @property
    def file(self) -> Path | None:
        """The file that was read; None for a config that is no file."""
        return self._file

    @property
    def store_url(self) -> str | None:
        """The URL of the store; None if nothing is kept, as for a config that is no file."""
        default = None if self._folder is None else STORE
        url = self.server.store.get_secret_value() if self.server.store else default
        return None if url == NO_STORE else url

    @property
    def from_price_list(self) -> tuple[str, ...]:
        """A line for each expert that takes prices or capabilities from the price list."""
        return self._from_price_list

    def experts_by_name(self) -> dict[str, Expert]:
        """The experts of the file, by name."""
        proxy = self.server.proxy
        return {entry.name: entry.expert(self.folder, proxy, self.file) for entry in self.experts}


@dataclass(frozen=True)
class Examination:
    """The result of `examine`: the config if there are no mistakes, and all problems by line."""

    config: Config | None
    problems: tuple[Problem, ...]
    document: Document
    from_price_list: tuple[str, ...] = ()  # a line for each expert that takes something from it

    @property
    def mistakes(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.level == "error")


def load(path: Path) -> Config:
    """The config in a file. Raises BadConfig, whose message lists every mistake."""
    result = examine(path)
    if result.config is None:
        raise BadConfig(_listed(result.mistakes, path))
    return result.config


def _listed(mistakes: Sequence[Problem], path: Path) -> str:
    lines = [problem.text(path) for problem in mistakes[:MOST_LISTED]]
    if more := len(mistakes) - len(lines):
        lines.append(f"and {more} more mistakes")
    return "\n".join(lines)


def experts(path: Path) -> dict[str, Expert]:
    """The experts of a config, by name, even if its policies need a router that does not exist yet.

    Raises BadConfig with every mistake that is not in the policies.
    """
    result = examine(path)
    policies = (("policies",), ("default_policy",))
    if mistakes := [p for p in result.mistakes if p.loc[:1] not in policies]:
        raise BadConfig(_listed(mistakes, path))
    data = result.document.data
    proxy = ServerConfig.model_validate(data.get("server") or {}).proxy
    entries = (ExpertConfig.model_validate(entry) for entry in data["experts"])
    return {entry.name: entry.expert(path.parent, proxy, path) for entry in entries}


def default_data_class(path: Path) -> DataClass:
    """The data class of texts that state none: `server.default_data_class` of a valid config."""
    document = read(path)
    return document.get("server", "default_data_class") or "public"


def examine(path: Path) -> Examination:
    """All mistakes and warnings in a file, sorted by line. Raises nothing."""
    document = read(path)
    config, problems = None, list(document.problems)
    from_price_list: tuple[str, ...] = ()
    if isinstance(document.data, dict):
        _default_keys(document)
        from_price_list, price_problems = _take_prices(document)
        config, shape_problems = _validate(document)
        if config is not None:
            config._from_price_list = from_price_list
        problems += price_problems
        rule_problems = (problem for rule in RULES for problem in rule(document))
        # An unset variable is already reported; rules cannot judge its value.
        problems += [
            problem
            for problem in (*shape_problems, *rule_problems)
            if problem.loc not in document.unset or problem.value is None
        ]
    problems.sort(key=lambda problem: (problem.line or 0, problem.column or 0))
    has_mistakes = any(problem.level == "error" for problem in problems)
    config = None if has_mistakes else config
    return Examination(config, tuple(problems), document, from_price_list)


def _validate(document: Document) -> tuple[Config | None, list[Problem]]:
    try:
        config = Config.model_validate(document.data)
    except ValidationError as error:
        return None, list(config_shape.mistakes(document, error, _keys_at))
    config._folder = document.path.parent
    config._file = document.path
    return config, []


def _default_keys(document: Document) -> None:
    """Gives OPENAI_API_KEY and ANTHROPIC_API_KEY to experts, or deployments, of these vendors
    without a key."""
    for loc, name in without_key(document):
        if os.environ.get(name):
            document.get(*loc)["api_key"] = os.environ[name]


def _take_prices(document: Document) -> tuple[tuple[str, ...], list[Problem]]:
    """Fills in what entries do not name from the price list; a line for each such expert."""
    file, lines = document.get("price_list"), []
    problems: list[Problem] = []
    try:
        is_path = isinstance(file, str) and file != ""
        source = prices.read(document.path.parent / file) if is_path else prices.shipped()
    except BadInput as error:
        fix = "give a price file in LiteLLM's format, or remove this key"
        return (), [document.problem(("price_list",), f"cannot be used: {error}", fix)]
    for loc, expert in document.items("experts"):
        if not isinstance(expert, dict) or any(
            (*loc, key) in document.unset for key in expert if key != "api_key"
        ):
            continue
        listing = source.of(expert)
        choice = expert.get("price_list")
        if listing is None and isinstance(choice, str) and choice not in PRICE_LISTS and choice:
            fix = registry.choose(choice, [*PRICE_LISTS, *source.models])
            at = (*loc, "price_list")
            problems.append(document.problem(at, f"is no entry of {source.label}", fix))
        fields = {} if listing is None else prices.missing_fields(expert, listing)
        if fields:
            expert |= fields
            lines.append(prices.sentence(str(expert.get("name")), fields, source.label))
    return tuple(lines), problems


def _keys_at(loc: Loc) -> dict[str, str]:
    """The valid keys in the section that holds `loc`, with their descriptions."""
    sections: dict[str | int, type[Section]] = {
        "experts": ExpertConfig,
        "policies": PolicyConfig,
        "server": ServerConfig,
    }
    section = sections[loc[0]] if len(loc) > 1 else Config
    if loc[:2] == ("server", "records") and len(loc) > 2:
        section = RecordsConfig
    if loc[:2] == ("server", "responses") and len(loc) > 2:
        section = ResponsesConfig
    if loc[2:3] == ("launch",) and len(loc) > 3:
        section = LaunchConfig
    if loc[2:3] == ("deployments",) and len(loc) > 4:
        section = DeploymentConfig
    return {name: field.description or "" for name, field in section.model_fields.items()}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors and for docs/routewright.schema.json."""
    return {"$schema": SCHEMA, **Config.model_json_schema()}
