"""Writes the text of a new routewright.yaml, with comments for the person who edits it next."""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass

import yaml

from routewright.types import DATA_CLASSES

HEAD = """\
# Models that may be asked, and the policies that choose among them. All keys: docs/config.md.
#   routewright check {file}     finds mistakes without asking anybody
#   routewright doctor {file}    asks every expert one small question
#   routewright chat {file}      talks to the default policy
#   routewright serve {file}     serves it to any OpenAI client
version: 1
"""
EXPERTS = """
# Prices, context windows and capabilities that are not named come from a dated price list; your own
# `input_per_mtok`, `output_per_mtok`, `context_window` and `capabilities` count instead.
# `data_classes` are the texts that may be sent to an expert: public, internal, restricted. Texts of
# other classes never reach it.
experts:
"""
ONE = """
policies:
  default:                # one expert: add others, and Routewright can choose
    strategy: fixed
    options: {{expert: {first}}}
"""
SEVERAL = """\
# Clients request a policy as the model `routewright/NAME`, and the default policy as `auto`.
policies:
  cheap:                  # {cheapest}; the others step in if it fails or may not be asked
    strategy: fixed
    options: {{expert: {first}}}
    fallback: {rest}
  careful:                # a cheap expert first; a better one if it doubts its own answer
    strategy: cascade
    options: {{ladder: {ladder}, trust: 0.8}}
    fallback: {rest}
  best:                   # {best}
    strategy: fixed
    options: {{expert: {last}}}
    fallback: {others}
"""
SAME_PRICE = """
# Experts without prices stand in the order in which they were found. Which is the better one, only
# you know: change the names in these policies if it is another.
#
"""
LEARNED = """\
  # A learned policy, after
  #   routewright interview {file} QUERIES.jsonl --out OUTCOMES.parquet --hold-out 0.2
  #   routewright fit OUTCOMES.parquet --out router
  # Remove the # below, and name it in `default_policy`:
  # learned:
  #   strategy: auto
  #   router: router
  #   max_cost_fraction: 0.5      # of always asking the most expensive expert
  #   fallback: {last_list}
default_policy: {default}

server:
  port: 4100              # on this machine only; `host: 0.0.0.0` opens it, then set `api_keys:`
  default_data_class: public      # of a request that names none
"""


@dataclass(frozen=True)
class Entry:
    """An expert of a new config. `key` is the environment variable that holds its key."""

    name: str
    model: str
    base_url: str
    key: str | None = None
    comment: str = ""
    context_window: int | None = None  # tokens, as its server says
    data_classes: tuple[str, ...] = ("public",)
    has_price: bool = True
    provider: str = "openai"

    def lines(self) -> list[str]:
        lines = [f"  # {self.comment}"] if self.comment else []
        lines += [f"  - name: {_value(self.name)}", f"    base_url: {_value(self.base_url)}"]
        if self.provider != "openai":
            lines.append(f"    provider: {self.provider}")
        if self.model != self.name:
            lines.append(f"    model: {_value(self.model)}")
        if self.key is not None:
            lines.append(f"    api_key: ${{{self.key}}}")
        if self.context_window is not None:
            lines.append(f"    context_window: {self.context_window}")
        if not self.has_price:
            lines += [
                "    # input_per_mtok: 0.1     # US$ per million tokens; without prices a router",
                "    # output_per_mtok: 0.2    # takes it as free, and has no cost to weigh",
            ]
        return [*lines, f"    data_classes: {_list(self.data_classes)}"]


def text(entries: Sequence[Entry], file: str = "routewright.yaml") -> str:
    """The text of a config with these experts, the cheapest one first."""
    names = [entry.name for entry in entries]
    first, last = _scalar(names[0]), _scalar(names[-1])
    policies = ONE.format(first=first)
    if len(names) > 1:
        unpriced = sum(not entry.has_price for entry in entries)
        policies = (SAME_PRICE if unpriced > 1 else "\n") + SEVERAL.format(
            first=first,
            last=last,
            rest=_list(names[1:]),
            others=_list(names[-2::-1]),
            ladder=_list([names[0], names[-1]]),
            best=(
                "the most expensive expert"
                if entries[-1].has_price
                else "the last expert above: which one is the best, only you know"
            ),
            cheapest=(
                "the cheapest expert"
                if entries[0].has_price or entries[1].has_price
                else "the first expert above"
            ),
        )
    experts = "\n\n".join("\n".join(entry.lines()) for entry in entries)
    default = "default" if len(names) == 1 else "cheap"
    learned = LEARNED.format(file=file, last_list=_list([names[-1]]), default=default)
    return HEAD.format(file=file) + EXPERTS + f"{experts}\n" + policies + learned


def expert_name(model: str, source: str, taken: Container[str]) -> str:
    """A valid name for an expert: the last part of the model's name, made unique with `source`.

    >>> expert_name("meta-llama/Llama-3.3-70B", "groq", ()), expert_name("a/b", "groq", {"b"})
    ('Llama-3.3-70B', 'b-groq')
    """
    own = re.sub(r"[^!-=?-~]+|::+", "-", model.rstrip("/").rpartition("/")[2]).removesuffix(".gguf")
    own = own[:80] or "model"
    place = re.sub(r"[^\w.-]+", "-", source)
    if own == "auto" or own.startswith(("routewright", "router-")):
        own = f"{place}-{own}"
    candidates = [own, f"{own}-{place}", *(f"{own}-{place}-{i}" for i in range(2, 1000))]
    return next(name for name in candidates if name not in taken)


def data_classes(restricted: bool, internal: bool) -> tuple[str, ...]:
    """The data classes of an expert that may see public texts and these."""
    allowed = (True, internal, restricted)
    return tuple(name for name, may in zip(DATA_CLASSES, allowed, strict=True) if may)


def _value(text: str) -> str:
    """A text as YAML writes it after a key, quoted where it must be."""
    written = yaml.safe_dump(text, width=10_000, allow_unicode=True)
    return written.removesuffix("\n").removesuffix("\n...")


def _scalar(value: str) -> str:
    """A text as YAML writes it inside a list in one line."""
    return yaml.safe_dump([value], default_flow_style=True, width=10_000, allow_unicode=True)[1:-2]


def _list(values: Sequence[str]) -> str:
    return f"[{', '.join(map(_scalar, values))}]"
