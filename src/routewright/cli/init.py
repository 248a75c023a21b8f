"""`routewright init`: writes a config for the models that this machine can reach."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from routewright import files
from routewright.errors import BadInput

if TYPE_CHECKING:
    from routewright.config.new import Entry
    from routewright.experts.discovery import Model, Source
    from routewright.experts.prices import Listing

T = TypeVar("T")


def init(
    out: Annotated[Path, typer.Option(help="The config to write.")] = Path("routewright.yaml"),
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask nothing; take what is found.")
    ] = False,
    models: Annotated[
        str | None,
        typer.Option(help="Comma-separated models to take: NAME, or SOURCE:NAME as in groq:NAME."),
    ] = None,
    restricted: Annotated[
        str | None,
        typer.Option(
            help="Models that may see restricted text: comma-separated names, `local` (those on"
            " this machine), `all` or `none`."
        ),
    ] = None,
    internal: Annotated[
        str | None,
        typer.Option(help="Models that may see internal text; default: as --restricted."),
    ] = None,
    server: Annotated[
        list[str] | None,
        typer.Option(help="Port or URL of a further OpenAI-compatible server; may be repeated."),
    ] = None,
    scan: Annotated[
        bool,
        typer.Option(help="Look at the usual ports of Ollama, vLLM, llama.cpp and LM Studio."),
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Find keys and local servers, ask a few questions, and write a commented config.

    Keys are read from the environment and never written: the config refers to them as ${NAME}.
    No vendor is asked; only servers on this machine and those of --server are. Each question has
    an option; --yes answers the others.
    """
    from routewright.config import examine, new
    from routewright.experts import discovery

    if out.exists() and not force:
        raise BadInput(f"'{out}' exists already: name another --out, or replace it with --force")
    if not out.parent.is_dir():
        raise BadInput(f"the folder of '{out}' does not exist: create it, or name another --out")
    sources = discovery.vendors(os.environ)
    sources += asyncio.run(discovery.servers(os.environ, server or (), scan))
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    candidates = _candidates(sources)
    if not candidates and not any(source.vendor for source in sources):
        raise BadInput(_nothing_found(scan))
    _show(sources, candidates, console)
    chosen = _unique(_choose(models, candidates, sources, yes))
    for choice in chosen:
        console.print(f"  {choice.name} · {choice.facts}", markup=False)
    local = [choice.name for choice in chosen if choice.is_local]
    seen = _audience("restricted", restricted, "local" if local else "none", chosen, yes)
    default = ",".join(seen) or "none"
    also = _audience("internal", internal, default, chosen, yes or restricted is not None)
    entries = [choice.entry(choice.name in seen, choice.name in also) for choice in chosen]
    files.write(out, new.text(entries, shlex.quote(str(out))))
    if mistakes := examine(out).mistakes:
        lines = "\n".join(mistake.text(out) for mistake in mistakes)
        raise BadInput(f"the new config has mistakes; please correct them:\n{lines}")
    experts = "1 expert" if len(chosen) == 1 else f"{len(chosen)} experts"
    file = shlex.quote(str(out))
    typer.echo(f"wrote '{out}' with {experts}: {', '.join(choice.name for choice in chosen)}")
    typer.echo(f"Next: routewright doctor {file}    (asks each one small question)")
    typer.echo(f'      routewright chat {file} "What is 2 + 2?"')


@dataclass(frozen=True)
class Candidate:
    """A model that may become an expert."""

    source: Source
    model: Model
    listing: Listing | None
    name: str = ""

    @property
    def is_local(self) -> bool:
        from routewright.config.rules import is_loopback

        return is_loopback(urlsplit(self.source.base_url).hostname)

    @property
    def price(self) -> float:
        """US$ per million tokens, for sorting: unknown ones of vendors last."""
        if self.listing is not None:
            return self.listing.input_per_mtok + self.listing.output_per_mtok
        return 0.0 if self.source.vendor is None else float("inf")

    @property
    def facts(self) -> str:
        """Where it is and what it costs, in one line."""
        from routewright.experts import prices

        if self.listing is None:
            what = "it runs on this machine" if self.is_local else "its price is unknown"
            what += ", and counts as free"
            return f"{self.source.title}: {what}"
        fields = prices.missing_fields({}, self.listing)
        return prices.sentence(self.source.title, fields, prices.shipped().label)

    def answers_to(self, name: str) -> bool:
        return name in (self.model.id, self.name, f"{self.source.id}:{self.model.id}")

    def entry(self, restricted: bool, internal: bool) -> Entry:
        from routewright.config.new import Entry, data_classes

        return Entry(
            self.name,
            self.model.id,
            self.source.base_url,
            self.source.key,
            self.facts,
            self.model.context_window if self.source.vendor is None else None,
            data_classes(restricted, internal),
            has_price=self.listing is not None,
            provider=self.source.provider,
        )


def _candidates(sources: Sequence[Source]) -> list[Candidate]:
    """The models that are offered: common ones of vendors, and all that servers list."""
    from routewright.experts.discovery import Model

    candidates = []
    for source in sources:
        offers = source.models or tuple(Model(id) for id in source.vendor.offers)  # type: ignore[union-attr]
        candidates += [_candidate(source, model) for model in offers]
    return _unique(sorted(candidates, key=lambda candidate: candidate.price))


def _candidate(source: Source, model: Model) -> Candidate:
    from routewright.experts import prices

    listing = prices.shipped().find(model.id, source.vendor) if source.vendor else None
    return Candidate(source, model, listing)


def _unique(candidates: Sequence[Candidate]) -> list[Candidate]:
    """The candidates, the cheapest first, each with a name that no other one has."""
    from routewright.config.new import expert_name

    named: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda candidate: candidate.price):
        names = {other.name for other in named}
        name = expert_name(candidate.model.id, candidate.source.id, names)
        named.append(replace(candidate, name=name))
    return named


def _show(sources: Sequence[Source], candidates: Sequence[Candidate], console: Console) -> None:
    for source in sources:
        place = f"key in {source.key}" if source.vendor else source.base_url
        console.print(f"found {source.title}: {place}", markup=False)
        if not source.models and source.vendor and not source.vendor.offers:
            console.print(
                "  its deployments are unknown: name them with --models azure:NAME, or set"
                " AZURE_OPENAI_DEPLOYMENT",
                markup=False,
            )
    table = Table("", "model")
    table.add_column("of", no_wrap=True)
    for heading in ("US$ in/out per million tokens", "context", "capabilities"):
        table.add_column(heading)
    for number, candidate in enumerate(candidates, 1):
        listing, window = candidate.listing, candidate.model.context_window
        prices = "–" if candidate.source.vendor is None else "unknown"
        capabilities = "unknown"
        if listing is not None:
            prices = f"{listing.input_per_mtok:g} / {listing.output_per_mtok:g}"
            window, capabilities = (
                listing.context_window,
                ", ".join(sorted(listing.capabilities or ())),
            )
        size = "unknown" if window is None else f"{window:,}"
        place = candidate.source.title
        if [source.title for source in sources].count(place) > 1:
            place = urlsplit(candidate.source.base_url).netloc
        table.add_row(str(number), Text(candidate.model.id), place, prices, size, capabilities)
    if candidates:
        console.print(table)


# --- questions -------------------------------------------------------------------------------


def _choose(
    flag: str | None, candidates: list[Candidate], sources: Sequence[Source], yes: bool
) -> list[Candidate]:
    """The models to take: those of the flag, or those that the person names; default: all."""

    def parse(text: str) -> list[Candidate]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        if not names:
            raise BadInput("no model is named: give at least one")
        return list(dict.fromkeys(_find(name, candidates, sources) for name in names))

    if flag is not None:
        return parse(flag)
    if not candidates:
        raise BadInput("no model is known there: name at least one with --models SOURCE:NAME")
    if yes:
        return candidates
    everything = ",".join(str(number) for number in range(1, len(candidates) + 1))
    question = "Which models? Numbers or names; other models of these sources are allowed"
    return _ask("--models", question, everything, parse)


def _find(name: str, candidates: Sequence[Candidate], sources: Sequence[Source]) -> Candidate:
    """The model of a number or a name; it may be any model of a vendor in the price list."""
    from routewright.experts.discovery import Model
    from routewright.registry import choose

    if name.isdecimal() and 0 < int(name) <= len(candidates):
        return candidates[int(name) - 1]
    matches = [candidate for candidate in candidates if candidate.answers_to(name)]
    place, _, model = name.partition(":")
    for source in sources:
        if matches:
            break
        if source.id == place and model:
            matches = [_candidate(source, Model(model))]
        elif source.vendor is not None:
            candidate = _candidate(source, Model(name))
            matches = [candidate] if candidate.listing is not None else []
    if not matches:
        names = [candidate.model.id for candidate in candidates]
        raise BadInput(
            f"no model '{name}' is known: {choose(name, names)}; any other one is SOURCE:NAME, with"
            f" a source of {', '.join(source.id for source in sources)}"
        )
    return matches[0]


def _audience(
    data_class: str, flag: str | None, default: str, chosen: Sequence[Candidate], yes: bool
) -> list[str]:
    """The names of the experts that may see texts of a data class."""
    from routewright.registry import choose

    def parse(text: str) -> list[str]:
        groups = {
            "all": [choice.name for choice in chosen],
            "local": [choice.name for choice in chosen if choice.is_local],
            "none": [],
        }
        names: list[str] = []
        for word in (word.strip() for word in text.split(",") if word.strip()):
            matches = [choice.name for choice in chosen if choice.answers_to(word)]
            if word not in groups and not matches:
                options = [*groups, *(choice.name for choice in chosen)]
                raise BadInput(f"no expert '{word}' is chosen: {choose(word, options)}")
            names += groups.get(word, matches)
        return list(dict.fromkeys(names))

    if flag is not None:
        return parse(flag)
    if yes:
        return parse(default)
    question = f"Which may see {data_class} text? Names, local, all or none"
    return _ask(f"--{data_class}", question, default, parse)


def _ask(option: str, question: str, default: str, parse: Callable[[str], T]) -> T:
    """Asks until the answer can be read. Raises BadInput if nobody answers."""
    while True:
        try:
            answer = typer.prompt(question, default=default, err=True)
        except typer.Abort as error:
            if sys.stdin.isatty():
                raise
            raise BadInput(
                f"nobody answers '{question}': give {option}, or --yes for '{default}'"
            ) from error
        try:
            return parse(answer)
        except BadInput as error:
            typer.echo(str(error), err=True)


def _nothing_found(scan: bool) -> str:
    from routewright.experts.discovery import USUAL_PORTS
    from routewright.experts.prices import VENDORS

    keys = ", ".join(vendor.keys[0] for vendor in VENDORS)
    ports = ", ".join(f"{title} on port {port}" for port, title in USUAL_PORTS.items())
    servers = f"and no local server ({ports})" if scan else "and was told not to look for servers"
    return (
        f"found no key in the environment ({keys}) {servers}: set a key, as in `export"
        " OPENAI_API_KEY=…`, or start a server and give its port with --server PORT, then run this"
        " again; `routewright demo` needs neither"
    )
