"""routewright.yaml: the experts, the policies that choose among them, and the server.

`load` gives a checked `Config` or raises BadConfig with every mistake; `examine` gives the
mistakes themselves, each with its line. `python -m routewright.config` prints the JSON Schema
that editors use.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
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

from routewright.config import shape as config_shape
from routewright.config.document import Document, Loc, Problem, read
from routewright.config.rules import OPENAI_KEY, RULES, wants_openai_key
from routewright.errors import BadConfig
from routewright.types import DataClass, Expert, Launch

OPENAI_URL = "https://api.openai.com/v1"
SCHEMA = "https://json-schema.org/draft/2020-12/schema"

Capability = Literal["json", "tools", "vision"]  # the same as experts.EVERYTHING


def _no_bool(value: object) -> object:
    """YAML's `yes` would pass for 1."""
    if isinstance(value, bool):
        raise PydanticCustomError("number_type", "must be a number")
    return value


NO_BOOL = BeforeValidator(_no_bool)
Text = Annotated[str, Field(min_length=1)]
Secret = Annotated[SecretStr, Field(min_length=1)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False), NO_BOOL]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False), NO_BOOL]
Fraction = Annotated[float, Field(gt=0, le=1), NO_BOOL]
Count = Annotated[int, Field(ge=0), NO_BOOL]
PositiveCount = Annotated[int, Field(gt=0), NO_BOOL]
Port = Annotated[int, Field(ge=0, le=65535), NO_BOOL]


class Section(BaseModel):
    """A part of the file: unknown keys are mistakes, and errors never quote what was given."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class LaunchConfig(Section):
    """The server of an expert that we run ourselves."""

    command: Text = Field(
        description="What starts it, and stays in the foreground; {port} is the port of `base_url`."
    )
    start: Literal["demand", "serve"] = Field(
        default="demand", description="With the first request, or with the gateway."
    )
    folder: Path = Field(
        default=Path(), description="Where it runs, counted from this file's folder."
    )
    env: dict[str, str] = Field(
        default={}, description="Variables that it gets beside those of the gateway.", repr=False
    )
    ready: Text | None = Field(
        default=None,
        description="The path that answers 200 once it can; default: /health, else the models.",
    )
    patience: Positive = Field(default=600.0, description="Seconds until it must be ready.")
    wait: Positive = Field(
        default=30.0, description="Seconds that a request waits for it; then fallbacks step in."
    )
    idle: Positive | None = Field(
        default=None, description="Seconds without a request after which it is stopped."
    )
    restarts: Count = Field(
        default=3, description="How often in a row it is started after crashes."
    )
    grace: Positive = Field(
        default=10.0, description="Seconds between asking it to end and killing it."
    )

    def launch(self, base_url: str, folder: Path) -> Launch:
        """The noun, with the command split and its port filled in."""
        port = str(urlsplit(base_url).port or "")
        plain = self.model_dump(exclude={"command", "folder"})
        words = shlex.split(self.command)
        command = tuple(word.replace("{port}", port) for word in words)
        return Launch(command, folder=str((folder / self.folder).absolute()), **plain)


class ExpertConfig(Section):
    """A model that may be asked."""

    name: Text = Field(description="What clients and outcome tables call it; unique.")
    provider: Text = Field(
        default="openai",
        description="Who speaks to it: `openai` for every OpenAI-compatible endpoint.",
    )
    base_url: Text | None = Field(
        default=None,
        description="Where it lives; provider `openai` without one means api.openai.com.",
    )
    model: Text | None = Field(
        default=None, description="The upstream's own name for it; default: `name`."
    )
    api_key: Secret | None = Field(
        default=None,
        description="${NAME} or os.environ/NAME; at api.openai.com default ${OPENAI_API_KEY}.",
    )
    input_per_mtok: Price = Field(default=0.0, description="US$ per million input tokens.")
    cached_input_per_mtok: Price | None = Field(
        default=None,
        description="US$ per million input tokens read from a cache; default: `input_per_mtok`.",
    )
    output_per_mtok: Price = Field(default=0.0, description="US$ per million output tokens.")
    context_window: PositiveCount | None = Field(
        default=None, description="Tokens it can read; absent: unknown, never a reason to reject."
    )
    capabilities: frozenset[Capability] = Field(
        default=frozenset(), description="What it can do beyond text."
    )
    data_classes: frozenset[DataClass] = Field(
        default=frozenset({"public"}), description="Every class of text that may reach it."
    )
    region: Text | None = Field(
        default=None, description="Where it runs; a query that names a region goes nowhere else."
    )
    latency: Positive | None = Field(
        default=None, description="Seconds that a typical answer takes."
    )
    timeout: Positive = Field(default=60.0, description="Seconds until an answer must be complete.")
    retries: Count = Field(
        default=2, description="Further tries after a failure before the first byte."
    )
    verify_prompt: Text | None = Field(
        default=None,
        description="How it is asked to check an answer; holds {question} and {answer}.",
    )
    options: dict[str, Any] = Field(default={}, description="Sent with every request.", repr=False)
    launch: LaunchConfig | None = Field(
        default=None, description="How its server is started, if we run it."
    )

    def expert(self, folder: Path = Path()) -> Expert:
        """The noun that strategies and the two loops know; `folder` is the file's."""
        plain = self.model_dump(exclude={"api_key", "model", "base_url", "launch"})
        home = OPENAI_URL if self.provider == "openai" else None
        return Expert(
            **plain,
            model=self.model or self.name,
            base_url=self.base_url or home,
            api_key=self.api_key.get_secret_value() if self.api_key else None,
            launch=self.launch.launch(self.base_url or "", folder) if self.launch else None,
        )


class PolicyConfig(Section):
    """A way to choose; clients ask for it as `routewright/POLICY`."""

    strategy: Text = Field(description="Who decides: the name of a strategy.")
    router: Path | None = Field(
        default=None, description="A trained router's folder, counted from this file's folder."
    )
    price: Price | None = Field(
        default=None, description="λ: quality (0 to 1) that one US$ must buy; 0 asks for the best."
    )
    latency_price: Price | None = Field(
        default=None, description="μ: quality (0 to 1) that one second less must be worth."
    )
    max_cost: Positive | None = Field(
        default=None, description="US$ per query, on average: a point of the router's frontier."
    )
    max_cost_fraction: Fraction | None = Field(
        default=None, description="The same, relative to always asking the dearest expert."
    )
    min_quality: Fraction | None = Field(
        default=None, description="Expected quality (0 to 1): the cheapest point that reaches it."
    )
    fallback: list[Text] = Field(
        default=[], description="Experts asked in this order if the chosen one fails."
    )
    options: dict[str, Any] = Field(
        default={}, description="The strategy's own settings.", repr=False
    )

    def spec(self) -> dict[str, Any]:
        """The strategy, its options and its prices, as `strategies.build` takes them."""
        prices = {"price": self.price, "latency_price": self.latency_price}
        given = {name: price for name, price in prices.items() if price is not None}
        return {"strategy": self.strategy, **self.options, **given}


class ServerConfig(Section):
    """The gateway's own address and limits."""

    host: Text = Field(default="127.0.0.1", description="The address it listens on.")
    port: Port = Field(default=4100, description="The port it listens on; 0 takes a free one.")
    api_keys: list[Secret] = Field(
        default=[], description="Bearer keys, one of which clients must send; empty: none asked."
    )
    default_data_class: DataClass = Field(
        default="public", description="The data class of a query that names none."
    )
    max_body_bytes: PositiveCount = Field(
        default=10 * 2**20, description="Larger requests are refused, in bytes."
    )
    feedback: Path | None = Field(
        default=None,
        description="Where scored decisions go, with the texts of their queries: a file for `fit`.",
    )
    feedback_answers: bool = Field(
        default=False,
        description="Whether the answers' texts go there, too: lessons for `dedicate grow`.",
    )


class Config(Section):
    """A whole routewright.yaml."""

    version: Literal[1] = Field(description="The version of this format.")
    experts: list[ExpertConfig] = Field(description="The models that may be asked.")
    policies: dict[str, PolicyConfig] = Field(
        default={}, description="Ways to choose, by name; at least one."
    )
    default_policy: Text | None = Field(
        default=None, description="What `auto` means; default: the first policy."
    )
    server: ServerConfig = Field(
        default=ServerConfig(), description="The gateway's own address and limits."
    )
    _folder: Path = PrivateAttr(default=Path())

    @model_validator(mode="after")
    def _first_policy(self) -> Config:
        self.default_policy = self.default_policy or next(iter(self.policies), None)
        return self

    @property
    def folder(self) -> Path:
        """Where the file lies: relative paths count from here."""
        return self._folder

    def experts_by_name(self) -> dict[str, Expert]:
        return {entry.name: entry.expert(self.folder) for entry in self.experts}


@dataclass(frozen=True)
class Examination:
    """What `examine` found: the config if there are no mistakes, and every problem by line."""

    config: Config | None
    problems: tuple[Problem, ...]
    document: Document

    @property
    def mistakes(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.level == "error")


def load(path: Path) -> Config:
    """The config in a file. Raises BadConfig, whose message lists every mistake."""
    found = examine(path)
    if found.config is None:
        raise BadConfig("\n".join(problem.text(path) for problem in found.mistakes))
    return found.config


def experts(path: Path) -> dict[str, Expert]:
    """The experts of a config whose policies may still want a router that does not exist.

    Raises BadConfig for every mistake that is not in the policies.
    """
    found = examine(path)
    mistakes = [p for p in found.mistakes if p.loc[:1] not in (("policies",), ("default_policy",))]
    if mistakes:
        raise BadConfig("\n".join(problem.text(path) for problem in mistakes))
    entries = (ExpertConfig.model_validate(entry) for entry in found.document.data["experts"])
    return {entry.name: entry.expert(path.parent) for entry in entries}


def examine(path: Path) -> Examination:
    """Every mistake in a file, and every warning, sorted by line. Raises nothing."""
    document = read(path)
    config, problems = None, list(document.problems)
    if isinstance(document.data, dict):
        _default_keys(document)
        config, misshapen = _validated(document)
        told = (problem for rule in RULES for problem in rule(document))
        # An unset variable is told already; what its value would be is anybody's guess.
        problems += [
            p for p in (*misshapen, *told) if p.loc not in document.unset or p.value is None
        ]
    problems.sort(key=lambda problem: (problem.line or 0, problem.column or 0))
    mistaken = any(problem.level == "error" for problem in problems)
    return Examination(None if mistaken else config, tuple(problems), document)


def _validated(document: Document) -> tuple[Config | None, list[Problem]]:
    try:
        config = Config.model_validate(document.data)
    except ValidationError as error:
        return None, list(config_shape.mistakes(document, error, _keys_at))
    config._folder = document.path.parent
    return config, []


def _default_keys(document: Document) -> None:
    """Experts at api.openai.com that name no key take OPENAI_API_KEY."""
    for _, expert in document.items("experts"):
        if wants_openai_key(expert) and os.environ.get(OPENAI_KEY):
            expert["api_key"] = os.environ[OPENAI_KEY]


def _keys_at(loc: Loc) -> dict[str, str]:
    """The keys that the file knows beside the last one of `loc`, and what they mean."""
    sections: dict[str | int, type[Section]] = {
        "experts": ExpertConfig,
        "policies": PolicyConfig,
        "server": ServerConfig,
    }
    section = sections[loc[0]] if len(loc) > 1 else Config
    if loc[2:3] == ("launch",) and len(loc) > 3:
        section = LaunchConfig
    return {name: field.description or "" for name, field in section.model_fields.items()}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors and for docs/routewright.schema.json."""
    return {"$schema": SCHEMA, **Config.model_json_schema()}
