"""A YAML file as plain data that remembers where every value stands and how it was written.

Line numbers come from PyYAML's nodes. `${NAME}` in any text is filled in from the environment,
and so is `os.environ/NAME` where a key is expected. What a message shows of a value is always
what the file says, never what the environment held: a secret cannot reach a log this way.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

Loc: TypeAlias = tuple[str | int, ...]  # the way to a value: ("experts", 0, "name")
Place: TypeAlias = tuple[int, int]  # line and column, both counted from 1

SECRETS = frozenset({"api_key", "api_keys"})
MASK = "********"
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
KEY_REFERENCE = re.compile(r"os\.environ/([A-Za-z_][A-Za-z0-9_]*)")
NAME = re.compile(r"[!-=?-~]+")  # visible ASCII but `>`: names travel in HTTP headers
LONGEST_SHOWN = 60  # characters of a value in a message


@dataclass(frozen=True)
class Problem:
    """One mistake, or one thing worth a warning: where it is, what it is, how to mend it."""

    loc: Loc
    problem: str
    mend: str
    value: str | None = None  # as written in the file, secrets masked
    line: int | None = None
    column: int | None = None
    level: Literal["error", "warning"] = "error"

    @property
    def where(self) -> str:
        """
        >>> Problem(("experts", 0, "name"), "is missing", "add `name:`").where
        'experts[0].name'
        """
        steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.loc)
        return "".join(steps).removeprefix(".")

    def text(self, path: Path) -> str:
        """The line that a terminal shows; editors jump to its `file:line:column`."""
        place = [str(part) for part in (path, self.line, self.column) if part is not None]
        value = "" if self.value is None else f" ({self.value})"
        where = f"{self.where}{value}: " if self.loc else ""
        return f"{':'.join(place)}: {self.level}: {where}{self.problem}\n    {self.mend}"


@dataclass
class Document:
    """What a file says, with its mistakes so far; `read` makes one."""

    path: Path
    raw: Any = None  # as written
    data: Any = None  # with references to the environment filled in
    problems: list[Problem] = field(default_factory=list)
    unset: set[Loc] = field(default_factory=set)  # values that refer to an unset variable
    keys: dict[Loc, Place] = field(default_factory=dict)
    values: dict[Loc, Place] = field(default_factory=dict)
    scalars: dict[Loc, str] = field(default_factory=dict)

    def get(self, *loc: str | int) -> Any:
        """The value there; None if there is none, or if it waits for an unset variable."""
        value = self.data
        for step in loc:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                return None
        return None if loc in self.unset else value

    def items(self, *loc: str | int) -> Iterator[tuple[Loc, Any]]:
        """The members of the list or mapping there, each with its way."""
        value = self.get(*loc)
        steps: list[Any] = []
        if isinstance(value, dict):
            steps = list(value)
        elif isinstance(value, list):
            steps = list(range(len(value)))
        yield from (((*loc, step), self.get(*loc, step)) for step in steps)

    def place(self, loc: Loc, *, key: bool = False) -> Place | tuple[None, None]:
        """Where the value (or its key) stands; where its parent stands if it is missing."""
        if key and loc in self.keys:
            return self.keys[loc]
        while loc not in self.values and loc:
            loc = loc[:-1]
        return self.values.get(loc, (None, None))

    def written(self, loc: Loc) -> str | None:
        """A single value as the file has it, safe to print; None for lists and mappings."""
        text = self.scalars.get(loc)
        if text is None:
            return None
        if SECRETS & set(loc) and not is_reference(text):
            return MASK
        if loc[-1:] == ("base_url",):
            text = re.sub(r"[?#].*", f"?{MASK}", re.sub(r"[^/]*@", f"{MASK}@", text))
        text = " ".join(text.split()) or "empty"
        return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"

    def problem(
        self,
        loc: Loc,
        problem: str,
        mend: str,
        *,
        key: bool = False,
        level: Literal["error", "warning"] = "error",
    ) -> Problem:
        """A mistake at `loc`; with `key` it is about the key there, and its value stays hidden."""
        line, column = self.place(loc, key=key)
        value = None if key else self.written(loc)
        return Problem(loc, problem, mend, value, line, column, level)

    def warning(self, loc: Loc, problem: str, mend: str) -> Problem:
        return self.problem(loc, problem, mend, level="warning")


def read(path: Path) -> Document:
    """The file as a document. Never raises for what the file says: see `problems`."""
    document = Document(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        why = (error.strerror or "cannot be read").lower()
        document.problems.append(Problem((), f"cannot be read: {why}", "check the path"))
        return document
    except UnicodeDecodeError:
        document.problems.append(Problem((), "is not UTF-8 text", "save it as UTF-8"))
        return document
    try:
        _Builder(document, text).build()
    except yaml.YAMLError as error:
        document.problems.append(_syntax_problem(error, text))
    except RecursionError:
        mend = "flatten it, and let no *alias contain itself"
        document.problems.append(Problem((), "is nested too deeply", mend))
    document.data = _filled(document, document.raw, ())
    return document


class _Builder:
    """Turns PyYAML's nodes into data, noting the place of everything on the way."""

    def __init__(self, document: Document, text: str) -> None:
        self.document = document
        self.loader = yaml.SafeLoader(text)
        self.merged: set[int] = set()  # nodes whose `<<` is resolved and duplicates are told

    def build(self) -> None:
        root = self.loader.get_single_node()
        if isinstance(root, yaml.MappingNode):
            self.document.raw = self._value(root, ())
            return
        mend = "begin with `version: 1`, then `experts:` and `policies:`"
        what = "is empty" if root is None else "is not a mapping of keys to values"
        self.document.problems.append(Problem((), what, mend, line=1, column=1))

    def _value(self, node: yaml.Node, loc: Loc) -> Any:
        self.document.values[loc] = _place(node)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, loc)
        if isinstance(node, yaml.SequenceNode):
            return [self._value(child, (*loc, i)) for i, child in enumerate(node.value)]
        self.document.scalars[loc] = node.value
        return self._scalar(node, loc)

    def _mapping(self, node: yaml.MappingNode, loc: Loc) -> dict[str, Any]:
        if id(node) not in self.merged:
            self.merged.add(id(node))
            self._tell_duplicates(node, loc)
            self.loader.flatten_mapping(node)
        data = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                self._tell(key, loc, "a key is a list or a mapping", "write plain text as key")
                continue
            self.document.keys[*loc, key.value] = _place(key)
            data[key.value] = self._value(value, (*loc, key.value))
        return data

    def _scalar(self, node: yaml.Node, loc: Loc) -> Any:
        try:
            return self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError):
            self._tell(node, loc, "is not a value that YAML can read", "put it in quotes")
            self.document.unset.add(loc)
            return None

    def _tell_duplicates(self, node: yaml.MappingNode, loc: Loc) -> None:
        first: dict[str, int] = {}
        for key, _ in node.value:
            name = key.value
            if not isinstance(name, str):
                continue
            if name in first:
                was = f"the key '{name}' is already on line {first[name]}"
                self._tell(key, (*loc, name), was, "keep one of the two")
            first.setdefault(name, _place(key)[0])

    def _tell(self, node: yaml.Node, loc: Loc, problem: str, mend: str) -> None:
        line, column = _place(node)
        self.document.problems.append(Problem(loc, problem, mend, None, line, column))


def _place(node: yaml.Node) -> Place:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    """What the parser stumbled over, without quoting the line: it may hold a secret."""
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
        problem = "a !tag that nobody knows"
    mend = "mend the line or the one above it; text with : # * & { [ ! @ goes in quotes"
    return Problem((), f"not YAML: {problem}", mend, None, *place)


# -- the environment ---------------------------------------------------------------------------


def is_reference(text: str) -> bool:
    """Whether a key is only pointed to, so that the text itself is no secret.

    >>> is_reference("${OPENAI_API_KEY}"), is_reference("sk-abc")
    (True, False)
    """
    return bool(REFERENCE.fullmatch(text) or KEY_REFERENCE.fullmatch(text))


def _filled(document: Document, value: Any, loc: Loc) -> Any:
    if isinstance(value, dict):
        return {key: _filled(document, child, (*loc, key)) for key, child in value.items()}
    if isinstance(value, list):
        return [_filled(document, child, (*loc, i)) for i, child in enumerate(value)]
    return _filled_text(document, value, loc) if isinstance(value, str) else value


def _filled_text(document: Document, text: str, loc: Loc) -> str:
    secret = bool(SECRETS & set(loc))
    pointed = KEY_REFERENCE.fullmatch(text) if secret else None
    names = [pointed[1]] if pointed else REFERENCE.findall(text)
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        document.unset.add(loc)
        document.problems.append(_unset_problem(document, loc, missing))
        return text
    if pointed:
        return os.environ[pointed[1]]
    return REFERENCE.sub(lambda match: os.environ[match[1]], text)


def _unset_problem(document: Document, loc: Loc, names: list[str]) -> Problem:
    if loc[0] == "experts" and loc[2:] == ("api_key",):
        return no_key(document, loc, names[0])
    return document.problem(loc, f"{', '.join(names)} is not set", f"set {', '.join(names)}")


def no_key(document: Document, loc: Loc, name: str) -> Problem:
    """An expert's key is nowhere to be found; `loc` is where `api_key:` stands or would stand."""
    _, place, _ = loc
    expert = document.raw["experts"][place].get("name", f"number {int(place) + 1}")
    line, _ = document.place(loc)
    mend = f"set {name}, or `api_key:` in {document.path.name} line {line}"
    return document.problem(loc, f"no key for expert '{expert}'", mend)
