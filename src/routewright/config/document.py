"""Reads a YAML file as plain data, with the place and the original text of every value.

Line numbers come from PyYAML's nodes. The environment variable NAME replaces `${NAME}` in any text,
and `os.environ/NAME` if it is a whole key. Messages always show the text of the file, never the
content of a variable, so that no secret can reach a log.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from routewright import files
from routewright.errors import BadInput

Loc: TypeAlias = tuple[str | int, ...]  # the path to a value: ("experts", 0, "name")
Place: TypeAlias = tuple[int, int]  # line and column, both counted from 1

SECRETS = frozenset({"admin_key", "api_key", "api_keys", "headers", "proxy"})
MASK = "********"
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
KEY_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
NAME = re.compile(r"[!-=?-~]+")  # visible ASCII except `>`: HTTP headers carry names
MAX_SHOWN, MAX_SENTENCE = 60, 600  # characters of a value, and of a sentence, in a message
LONGEST = 1 << 19  # bytes of a file
LARGEST = 1 << 63  # of a whole number
MOST_VALUES = 100_000  # in a file, with every alias written out
DEEPEST = 64  # levels
CUT = ("holds half of a surrogate pair", "write the character itself")  # problem and fix


@dataclass(frozen=True)
class Problem:
    """A mistake or a warning: its place, what is wrong, and how to fix it."""

    loc: Loc
    problem: str
    fix: str
    value: str | None = None  # as written in the file, secrets masked
    line: int | None = None
    column: int | None = None
    level: Literal["error", "warning"] = "error"

    @property
    def where(self) -> str:
        """The path to the value, as text.

        >>> Problem(("experts", 0, "name"), "is missing", "add `name:`").where
        'experts[0].name'
        """
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.loc)
        return "".join(steps).removeprefix(".")

    def text(self, path: Path) -> str:
        """The lines for a terminal; editors can jump to their `file:line:column`."""
        place = [str(part) for part in (path, self.line, self.column) if part is not None]
        value = "" if self.value is None else f" ({self.value})"
        where = f"{self.where}{value}: " if self.loc else ""
        problem, fix = (_short(part) for part in (f"{where}{self.problem}", self.fix))
        return f"{':'.join(place)}: {self.level}: {problem}\n    {fix}"


def _short(text: str) -> str:
    return text if len(text) <= MAX_SENTENCE else text[: MAX_SENTENCE - 1] + "…"


@dataclass
class Document:
    """The contents of a file, with the problems so far; `read` creates it."""

    path: Path
    raw: Any = None  # as in the file
    data: Any = None  # with references to the environment replaced
    problems: list[Problem] = field(default_factory=list)
    unset: set[Loc] = field(default_factory=set)  # values that refer to an unset variable
    keys: dict[Loc, Place] = field(default_factory=dict)
    values: dict[Loc, Place] = field(default_factory=dict)
    scalars: dict[Loc, str] = field(default_factory=dict)

    def get(self, *loc: str | int) -> Any:
        """The value at `loc`; None if there is none, or if it refers to an unset variable."""
        value = self.data
        for step in loc:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return None if loc in self.unset else value

    def items(self, *loc: str | int) -> Iterator[tuple[Loc, Any]]:
        """The path and the value of each member of the list or mapping at `loc`."""
        value = self.get(*loc)
        steps: list[Any] = []
        if isinstance(value, dict):
            steps = list(value)
        elif isinstance(value, list):
            steps = list(range(len(value)))
        yield from (((*loc, step), self.get(*loc, step)) for step in steps)

    def place(self, loc: Loc, *, key: bool = False) -> Place | tuple[None, None]:
        """The place of the value, or of its key; the place of its parent if it is missing."""
        if key and loc in self.keys:
            return self.keys[loc]
        while loc not in self.values and loc:
            loc = loc[:-1]
        return self.values.get(loc, (None, None))

    def written(self, loc: Loc) -> str | None:
        """The text of a single value in the file, safe to print; None for lists and mappings."""
        text = self.scalars.get(loc)
        if text is None:
            return None
        if SECRETS & set(loc) and not is_reference(text):
            return MASK
        if loc[-1:] == ("base_url",):
            parts = text.split("/")
            parts = [f"{MASK}{part[part.rindex('@') :]}" if "@" in part else part for part in parts]
            text = re.sub(r"[?#].*", f"?{MASK}", "/".join(parts))
        text = " ".join(text.split()) or "empty"
        return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"

    def problem(
        self,
        loc: Loc,
        problem: str,
        fix: str,
        *,
        key: bool = False,
        level: Literal["error", "warning"] = "error",
    ) -> Problem:
        """A problem at `loc`. With `key`, it concerns the key, and the value is not shown."""
        line, column = self.place(loc, key=key)
        value = None if key else self.written(loc)
        return Problem(loc, problem, fix, value, line, column, level)

    def warning(self, loc: Loc, problem: str, fix: str) -> Problem:
        return self.problem(loc, problem, fix, level="warning")


TABLES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet", ".gz", ".zst")
NO_FILE = "check the path; `routewright init` writes one"
FIX_ORDER = (
    "name a config (.yaml), or for `evaluate` a router's folder, here: check the order of the"
    " arguments"
)


def read(path: Path) -> Document:
    """The file as a document. Faults in the file do not raise: see `problems`."""
    document = Document(path)
    if path.suffix.lower() in TABLES:
        what = "is a table or query set, not a config"
        document.problems.append(Problem((), what, FIX_ORDER))
        return document
    try:
        text = files.read(path, LONGEST).decode("utf-8-sig")
    except OSError as error:
        reason = (error.strerror or "cannot be read").lower()
        document.problems.append(Problem((), f"cannot be read: {reason}", NO_FILE))
        return document
    except BadInput as error:
        problem = str(error).removeprefix(f"'{path}' ")
        document.problems.append(Problem((), problem, "name a configuration file"))
        return document
    except UnicodeDecodeError:
        document.problems.append(Problem((), "is not UTF-8 text", "save it as UTF-8"))
        return document
    try:
        _Builder(document, text).build()
    except yaml.YAMLError as error:
        document.problems.append(_syntax_problem(error, text))
    except (RecursionError, _TooLarge):
        fix = "flatten it, and remove every *alias that contains itself"
        document.problems.append(Problem((), "is nested too deeply or repeats too much", fix))
    document.data = _fill(document, document.raw, ())
    return document


class _TooLarge(Exception):
    """The file has more values, or is nested more deeply, than a configuration can be."""


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, which stops at files that are nested too deeply: its time grows with the
    levels of every word."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            raise _TooLarge
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Builder:
    """Turns PyYAML's nodes into data and records the place of every key and value."""

    def __init__(self, document: Document, text: str) -> None:
        self.document = document
        self.loader = _Loader(text)
        self.flattened: set[int] = set()  # ids of nodes whose `<<` is resolved
        self.measures: dict[int, tuple[int, int]] = {}  # by the ids of nodes

    def build(self) -> None:
        root = self.loader.get_single_node()
        if root is not None:
            self._measure(root)
        if isinstance(root, yaml.MappingNode):
            self.document.raw = self._value(root, ())
            return
        fix = "begin with `version: 1`, then `experts:` and `policies:`"
        what = "is empty" if root is None else "is not a mapping of keys to values"
        self.document.problems.append(Problem((), what, fix, line=1, column=1))

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        """The number of values in a node with every alias written out, and its levels. Raises
        _TooLarge: a few aliases of aliases can stand for more values than there is memory for."""
        if id(node) not in self.measures:
            self.measures[id(node)] = (1, DEEPEST)  # of a node that contains itself
            children = node.value if isinstance(node, yaml.CollectionNode) else []
            if isinstance(node, yaml.MappingNode):
                children = [part for pair in children for part in pair]
            parts = [self._measure(child) for child in children]
            size = 1 + sum(part for part, _ in parts)
            levels = 1 + max((part for _, part in parts), default=0)
            if size > MOST_VALUES or levels > DEEPEST:
                raise _TooLarge
            self.measures[id(node)] = (size, levels)
        return self.measures[id(node)]

    def _value(self, node: yaml.Node, loc: Loc) -> Any:
        self.document.values[loc] = _place(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(child, (*loc, i)) for i, child in enumerate(node.value)]
        self.document.scalars[loc] = node.value
        return self._scalar(node, loc)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        if id(node) not in self.flattened:
            self.flattened.add(id(node))
            self._report_duplicates(node, loc)
            self.loader.flatten_mapping(node)
        data = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._report(key, loc, "a key is a list or a mapping", "write plain text as key")
                continue
            if _is_cut(key.value):
                self._report(key, loc, *CUT)
                continue
            self.document.keys[*loc, key.value] = _place(key)
            data[key.value] = self._value(value, (*loc, key.value))
        return data

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        try:
            value = self.loader.construct_object(node)
            if isinstance(value, int) and abs(value) >= LARGEST:
                raise ValueError("a number of so many digits cannot be printed")
            if not _is_cut(value):
                return value
            self._report(node, loc, *CUT)
        except (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, ValueError):
            self._report(node, loc, "is not a value that YAML can read", "put it in quotes")
        self.document.unset.add(loc)
        return None

    def _report_duplicates(self, node: yaml.MappingNode, loc: Loc) -> None:
        first: dict[str, int] = {}
        for key, _ in node.value:
            name = key.value
            if not isinstance(name, str):
                continue
            if name in first:
                duplicate = f"the key '{name}' is already on line {first[name]}"
                self._report(key, (*loc, name), duplicate, "keep one of the two")
            first.setdefault(name, _place(key)[0])

    def _report(self, node: yaml.Node, loc: Loc, problem: str, fix: str) -> None:
        line, column = _place(node)
        self.document.problems.append(Problem(loc, problem, fix, None, line, column))


def _is_cut(value: object) -> bool:
    """Whether a text holds half of a surrogate pair, which UTF-8 cannot encode."""
    return isinstance(value, str) and value.encode("utf-8", "replace").decode() != value


def _place(node: yaml.Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    """The parser's error, without a quote from the line, which may hold a secret."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text[: error.position]
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        return Problem((), "a control character", "remove it", line=line, column=column)
    mark = getattr(error, "problem_mark", None)
    place = (mark.line + 1, mark.column + 1) if mark else (None, None)
    problem = getattr(error, "problem", None) or "cannot be parsed"
    if isinstance(error, yaml.composer.ComposerError) and "alias" in problem:
        problem = "an *alias without its &anchor"
    elif isinstance(error, yaml.composer.ComposerError) and "anchor" in problem:
        problem = "an &anchor that exists already"
    elif "tag" in problem:
        problem = "an unknown !tag"
    fix = "correct this line or the one above it; put text with : # * & { [ ! @ in quotes"
    return Problem((), f"not YAML: {problem}", fix, None, *place)


# -- the environment ---------------------------------------------------------------------------


def is_reference(text: str) -> bool:
    """Whether a text is only a reference to a key, and so no secret itself.

    >>> is_reference("${OPENAI_API_KEY}"), is_reference("sk-abc")
    (True, False)
    """
    return bool(REFERENCE.fullmatch(text) or KEY_REFERENCE.fullmatch(text))


def _fill(document: Document, value: Any, loc: Loc) -> Any:
    if isinstance(value, dict):
        return {key: _fill(document, child, (*loc, key)) for key, child in value.items()}
    if isinstance(value, list):
        return [_fill(document, child, (*loc, i)) for i, child in enumerate(value)]
    return _fill_text(document, value, loc) if isinstance(value, str) else value


def _fill_text(document: Document, text: str, loc: Loc) -> str:
    secret = bool(SECRETS & set(loc))
    match = KEY_REFERENCE.fullmatch(text) if secret else None
    names = [match[1]] if match else REFERENCE.findall(text)
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        document.unset.add(loc)
        document.problems.append(_unset_problem(document, loc, missing))
        return text
    if match:
        return os.environ[match[1]]
    return REFERENCE.sub(lambda match: os.environ[match[1]], text)


def _unset_problem(document: Document, loc: Loc, names: list[str]) -> Problem:
    if loc[0] == "experts" and loc[-1] == "api_key":
        return no_key(document, loc, names[0])
    return document.problem(loc, f"{', '.join(names)} is not set", f"set {', '.join(names)}")


def no_key(document: Document, loc: Loc, name: str) -> Problem:
    """The problem of an expert without a key; `loc` is the path of its `api_key:`, set or not."""
    position: Any = loc[1]
    number = f"number {position + 1}" if isinstance(position, int) else position
    expert = document.raw["experts"][position].get("name", number)
    line, _ = document.place(loc)
    fix = f"set {name}, or `api_key:` in {document.path.name} line {line}"
    return document.problem(loc, f"no key for expert '{expert}'", fix)
