"""Every pattern and every reader that meets foreign text takes time linear in its length.

The patterns are found by walking the modules, so a new one is tested without a line here. Growth is
measured in processor time: a quadratic pattern takes a hundred times as long for ten times the
text, and an exponential one is stopped.
"""

import ast
import importlib
import inspect
import os
import pkgutil
import random
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from time import thread_time
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import routewright
from routewright import prompts
from routewright.answers import equivalence, multiple_choice
from routewright.data import choices
from routewright.data.unicode import nfkc
from routewright.experts.providers._events import EventReader
from routewright.gateway import body
from routewright.gateway.errors import BadRequest
from routewright.grading.graders import code, judge, pairwise
from routewright.interview import overlap, selfplay, tagging
from routewright.prediction.encoders import surface
from routewright.prediction.encoders.lexical import Lexical
from routewright.prediction.encoders.surface import Surface
from routewright.types import Query

SIZES = (1_000, 10_000, 100_000, 1_000_000)  # characters
MOST_GROWTH = 40  # of the time for ten times the text: linear is 10, quadratic 100
FLOOR = 5e-4  # seconds below which a measurement is noise
LIMIT = 60  # seconds of processor time for one pattern or text
MOST_TEXTS = int(os.environ.get("ROUTEWRIGHT_TEXTS", "300"))  # of one pattern
SKIPPED = {"routewright.sandbox.train", "routewright.dedicated.network"}  # need torch
# Functions whose pattern is made from what they are given, with patterns as they make them.
BUILT = {
    "routewright.answers.wording.pattern_of": [
        r"(?<![\w\u2212])(?<!\d\.)(?:berlin ?wall(?:e?s)?)(?![\w%#]|\+\+|\.\d)",
        r"(?<![\w\u2212])(?<!\d\.)(?:mitochondri(?:ons?|a))(?![\w%#]|\+\+|\.\d)",
        r"(?<![\w\u2212])(?<!\d\.)(?:e[ +.-]{0,3}204)(?![\w%#]|\+\+|\.\d)",
    ],
    "routewright.answers.dates.pattern_of_date": [r"\bdate(?:1969|0000)x07x\d\d\b"],
    "routewright.answers.dates.pattern_of_time": [r"\btime18x00\b"],
    "routewright.grading.graders.match._other_name": [
        r"([A-Z][\w'\u2019-]{0,30}) ([A-Z][\w.]{0,30} )?Adams"
    ],
    "routewright.grading.graders.match._with_middle_name": [
        r"\bMarie [A-Z][\w\u2019'-]{2,30} Curie\b"
    ],
    "routewright.grading.graders.match._joined": [
        r',? (?:or|oder|ou) ["\u201c]?(?:NYC|New York)\b["\u201d]?'
    ],
    "routewright.cli.prices._point": [r"(?m)^version:[^\r\n]*"],
    "routewright.experts.redaction._without_addresses": [
        r"(?i)(?<![\w.-])llm\.example\.com(?::\d{1,5})?(?![\w-])"
    ],
    "routewright.prompts._fill": [r"\{(context|question|answer)\}"],
    "routewright.sandbox.model.__init__": [r" ?(?<![a-z])(add|and|sum)(?![a-z])|([0-9]+)|(.)"],
}
CALLS = ("compile", "search", "match", "fullmatch", "split", "sub", "subn", "findall", "finditer")


METHODS: dict[str, Callable[[re.Pattern[str], str], Any]] = {
    "search": re.Pattern.search,
    "match": re.Pattern.match,
    "fullmatch": re.Pattern.fullmatch,
    "findall": re.Pattern.findall,
    "finditer": lambda pattern, text: sum(1 for _ in pattern.finditer(text)),
    "split": re.Pattern.split,
    "sub": lambda pattern, text: pattern.sub("", text),
}
ANY = {"finditer", "fullmatch"}  # stand for every method, where the use is unknown


# --- the patterns --------------------------------------------------------------------------


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(routewright.__path__, "routewright."):
        if found.name not in SKIPPED and not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def patterns() -> dict[str, tuple[re.Pattern[str], set[str]]]:
    """All patterns by where they stand, with the methods that are used: module globals, attributes
    of classes, and arguments of `re` calls."""
    found: dict[tuple[str, int], tuple[str, re.Pattern[str], set[str]]] = {}
    used = uses()

    def add(place: str, pattern: re.Pattern[str], methods: set[str]) -> None:
        place, _, before = found.get((pattern.pattern, pattern.flags), (place, pattern, set()))
        found[pattern.pattern, pattern.flags] = place, pattern, before | methods

    for module in modules():
        for holder in [module, *(c for c in vars(module).values() if inspect.isclass(c))]:
            for name, value in vars(holder).items():
                if isinstance(value, re.Pattern):
                    add(f"{module.__name__}.{name}", value, used.get(name, set()))
        for place, call in re_calls(module):
            for pattern in of_call(module, place, call):
                add(place, pattern, {call.func.attr} - {"compile"})  # type: ignore[attr-defined]
    return {
        f"{place} {pattern.pattern}": (pattern, METHODS.keys() & methods or set(ANY))
        for place, pattern, methods in found.values()
    }


def uses() -> dict[str, set[str]]:
    """The methods that are called on each name, such as `NUMBER.findall`; a name that is used in
    another way may be called with any."""
    found: dict[str, set[str]] = {}
    for module in modules():
        tree = ast.parse(inspect.getsource(module))
        called = {
            id(node.value): node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)
        }
        for node in ast.walk(tree):
            name = getattr(node, "id", getattr(node, "attr", None))
            if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
                methods = {called[id(node)]} if called.get(id(node)) in METHODS else set(ANY)
                found[name] = found.get(name, set()) | methods
    return found


def re_calls(module: ModuleType) -> Iterator[tuple[str, ast.Call]]:
    """Calls such as `re.sub(…)`, with the names of the module and of the function around them."""
    tree = ast.parse(inspect.getsource(module))
    inner = {
        node: function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="re"), attr=attr)) if attr in CALLS:
                yield f"{module.__name__}.{inner.get(node, attr)}", node


def of_call(module: ModuleType, place: str, call: ast.Call) -> Iterator[re.Pattern[str]]:
    given = {"pattern": call.args[0]}
    given |= {word.arg: word.value for word in call.keywords if word.arg == "flags"}
    place_of_flags = {"compile": 1, "sub": 4, "subn": 4, "split": 3}.get(call.func.attr, 2)
    given |= dict(zip(["flags"], call.args[place_of_flags:], strict=False))
    try:
        values = {name: evaluated(module, part) for name, part in given.items()}
    except NameError:
        assert place in BUILT, f"{place} builds a pattern: add to BUILT how it looks"
        values_of_place = [{"pattern": pattern} for pattern in BUILT[place]]
    else:
        values_of_place = [values]
    for values in values_of_place:
        flags = values.get("flags", 0)
        yield re.compile(values["pattern"], int(flags))


def evaluated(module: ModuleType, expression: ast.expr) -> Any:
    return eval(compile(ast.Expression(expression), "<pattern>", "eval"), vars(module))  # noqa: S307


# --- adversarial texts ---------------------------------------------------------------------

COMMON = [" ", "\n", "\t", "0", "9", "a", "A", "_", ",", ".", "(", "[", "{", '"', "'", "`", "\\"]
COMMON += ["$", "-", "/", "=", "*", "<", "é", " \n", "1 ", "a ", "1,", "A.", "\\a", '"a', "{}"]


@dataclass
class Parts:
    """What a pattern is made of, as texts that it matches: its atoms and repeated parts, and the
    beginnings after which the rest of it is tried."""

    atoms: dict[str, None] = field(default_factory=dict)
    starts: dict[str, None] = field(default_factory=dict)

    def read(self, tree: Any, before: str, full: bool) -> str:
        """One text that a part of a pattern matches, about; `full` includes what may be left out.

        The texts up to each element of it, after the text `before`, are possible starts.
        """
        text = ""
        for kind, value in tree:
            self.starts[before + text] = None
            part = self._one(kind, value, before + text, full)
            self.atoms[part] = None
            text += part
        self.starts[before + text] = None
        return text

    def _one(self, kind: Any, value: Any, before: str, full: bool) -> str:
        match kind:
            case codes.LITERAL:
                return chr(value)
            case codes.NOT_LITERAL:
                return "a" if value != ord("a") else "b"
            case codes.ANY:
                return "x"
            case codes.IN:
                return of_class(value, self.atoms)
            case codes.MAX_REPEAT | codes.MIN_REPEAT | codes.POSSESSIVE_REPEAT:
                least, _, body = value
                text = self.read(body, before, full)
                return text * max(min(least, 8), int(full))
            case codes.SUBPATTERN:
                return self.read(value[3], before, full)
            case codes.ATOMIC_GROUP:
                return self.read(value, before, full)
            case codes.BRANCH:
                options = [self.read(branch, before, full) for branch in value[1]]
                self.atoms |= dict.fromkeys(options)
                return max(options, key=len) if full else min(options, key=len)
            case codes.ASSERT | codes.ASSERT_NOT:
                self.read(value[1], before, full)
        return ""


def of_class(items: Any, atoms: dict[str, None]) -> str:
    """A character of a class; one of every item of it is added to `atoms`."""
    negated = any(kind is codes.NEGATE for kind, _ in items)
    kinds = {
        codes.CATEGORY_DIGIT: "7",
        codes.CATEGORY_SPACE: " ",
        codes.CATEGORY_WORD: "w",
        codes.CATEGORY_NOT_DIGIT: "x",
        codes.CATEGORY_NOT_SPACE: "x",
        codes.CATEGORY_NOT_WORD: "-",
    }
    members = []
    for kind, value in items:
        if kind is codes.LITERAL:
            members.append(chr(value))
        elif kind is codes.RANGE:
            members.append(chr(value[0]))
        elif kind is codes.CATEGORY:
            members.append(kinds[value])
    atoms |= dict.fromkeys(members)
    if not negated:
        return members[0]
    return next(c for c in "x-7 \n" if re.compile(f"[^{re.escape(''.join(members))}]").match(c))


def texts(pattern: re.Pattern[str]) -> Iterator[tuple[str, str, str]]:
    """(start, repeated, end) of adversarial texts: runs of every atom after every beginning of the
    pattern, and runs of pairs; each also with a last character that spoils the match."""
    parts = Parts()
    for full in (True, False):
        parts.read(parser.parse(pattern.pattern, pattern.flags), "", full)
    own = [atom for atom in parts.atoms if atom]
    for end in ("", "\x00"):
        for atom in dict.fromkeys([*own, *COMMON]):
            for start in parts.starts:
                yield start, atom, end
        for start in filter(None, parts.starts):
            yield "", start, end
        for one, other in product(own[:12], own[:12] + COMMON[:6]):
            yield "", one + other, end


# --- growth --------------------------------------------------------------------------------


def seconds(work: Callable[[str], Any], text: str, times: int) -> float:
    """The least processor time of a few runs."""
    best = float("inf")
    for _ in range(times):
        began = thread_time()
        work(text)
        best = min(best, thread_time() - began)
    return best


def check_growth(work: Callable[[str], Any], build: Callable[[int], str], sizes: Any) -> float:
    """Raises AssertionError at the first size at which the time grows like a square; returns the
    last time."""
    before: float | None = None
    for size in sizes:
        text = build(size)
        spent = seconds(work, text, 1)
        if before is not None and spent > MOST_GROWTH * max(before, FLOOR):
            before = seconds(work, build(size // 10), 5)
            spent = min(spent, seconds(work, text, 2))  # the machine may have been busy
            assert spent <= MOST_GROWTH * max(before, FLOOR), (
                f"{size} characters such as {text[:30]!r} take {spent:.3g} s of processor time,"
                f" a tenth of them {before:.3g} s"
            )
        before = spent
    return before or 0.0


def filled(start: str, part: str, end: str) -> Callable[[int], str]:
    return lambda size: start + part * (size // len(part)) + end


def check_pattern(pattern: re.Pattern[str], methods: set[str]) -> None:
    """Runs a pattern on all texts of 1,000 and 10,000 characters, and on the one that took longest
    also on 100,000 and 1,000,000."""
    shapes = list(texts(pattern))
    if len(shapes) > MOST_TEXTS:
        shapes = random.Random(0).sample(shapes, MOST_TEXTS)
    slowest: tuple[float, str, tuple[str, str, str]] = (0.0, min(methods), shapes[0])
    for shape in shapes:
        for name in sorted(methods):
            spent = check_growth(partial(METHODS[name], pattern), filled(*shape), SIZES[:2])
            slowest = max(slowest, (spent, name, shape))
    _, name, shape = slowest
    check_growth(partial(METHODS[name], pattern), filled(*shape), SIZES[1:])


@contextmanager
def processor_limit(seconds: float = LIMIT) -> Iterator[None]:
    """Fails after so many seconds of processor time, also within a search of `re`."""

    def stop(*_: object) -> None:
        raise AssertionError(f"it takes more than {seconds} s of processor time")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


SHARDS = 4


@pytest.mark.parametrize("shard", range(SHARDS))
def test_every_pattern_is_linear(shard):
    failures = []
    for name, (pattern, methods) in list(patterns().items())[shard::SHARDS]:
        try:
            with processor_limit():
                check_pattern(pattern, methods)
        except AssertionError as error:
            failures.append(f"{name}: {error}")
    assert not failures, "\n".join(failures)


def test_a_quadratic_and_an_exponential_pattern_are_found():
    for faulty in (r"\s*\S", r"\\boxed\{\s*(?:x)?\s*A", r"<svg[^>]*? height=", r"(?:a+)+b"):
        with pytest.raises(AssertionError, match="of processor time"), processor_limit(10):
            check_pattern(re.compile(faulty), {"search"})


# --- readers -------------------------------------------------------------------------------

ENCODERS = [Surface().fit([Query.of("a"), Query.of("b?\nA. 1\nB. 2")])]
READERS: dict[str, Callable[[str], Any]] = {
    **{
        kind: partial(equivalence.key, kind)
        for kind in ("auto", "letter", "number", "text", "calls")
    },
    "labels": lambda text: equivalence.labels("auto", np.array([[text, "7", "8%"]], dtype=object)),
    "percent": lambda text: equivalence.labels("number", np.array([[text, "7%"]], dtype=object)),
    "marks": choices.marks,
    "options": choices.parse,
    "table of options": lambda text: multiple_choice.table([Query.of(text)]),
    "surface": lambda text: ENCODERS[0].encode([Query.of(text)]),
    "surface of the first version": lambda text: surface.features(text, 1),
    "grams": lambda text: Lexical()._grams(Query.of(text).excerpt),
    "verdict": prompts.verdict,
    "tags": prompts.tags,
    "tag": tagging.normalised,
    "words": overlap.ngrams,
    "self-play": selfplay.texts,
    "rating": judge.parse_rating,
    "preference": pairwise.parse_preference,
    "fences": code.fenced,
    "unicode": nfkc,
    "body": lambda text: refused(lambda: body.loads(text.encode("utf-8", "replace"))),
    "events": lambda text: read_events(text, len(text) * 4 + 1),
    "events in small chunks": lambda text: read_events(text, 7),
    "events of many lines": lambda text: read_events(text.replace(" ", "\ndata: "), 64),
    "metadata": lambda text: refused(
        lambda: body.parse({"messages": ASKED, "metadata": {text: text}}, "public")
    ),
    "model": lambda text: refused(lambda: body.parse({"messages": ASKED, "model": text}, "public")),
}


def read_events(text: str, size: int) -> None:
    """Reads a stream that arrives in chunks of so many bytes."""
    reader, stream = EventReader(1 << 30), text.encode("utf-8", "replace")
    for start in range(0, len(stream), size):
        list(reader.feed(stream[start : start + size]))
    list(reader.end())


ASKED = [{"role": "user", "content": "hi"}]
PIECES = [
    "\n",
    " ",
    "A. x\n",
    "A",
    "(B) ",
    "1",
    "1,",
    "1/2 ",
    "-1 ",
    "%",
    "$",
    "$\\pi$ ",
    "\\boxed{",
]
PIECES += ["{", "}", "[", '"', "[],", '{"a":', "answer ", "answer is 5 ", "not ", "correct ", "```"]
PIECES += ["```json\n", "rating ", "Rating: 7\n", "Better: 1\n", "\u0300\u0316", "\u0f73", "\ufdfa"]
PIECES += [
    "data: ",
    "data: {}\n\n",
    "data: {\n",
    'data: {"a": 1}\r',
    "\r\n",
    ": ping\n",
    "event: error\n",
]
PIECES += ["½", "日本", "😀", "\ud800", "\x00", "^", "\\frac{1}{", "e9", "\\u0041", '\\"']


def refused(work: Callable[[], Any]) -> None:
    with suppress(BadRequest):
        work()


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_is_linear(reader):
    for piece in PIECES:
        for start in ("", "[", '{"a": "', "answer: "):
            with processor_limit():
                check_growth(READERS[reader], filled(start, piece, ""), SIZES[1:3])
    for piece in ("word ", "1, 2\n"):
        check_growth(READERS[reader], filled("", piece, "x"), SIZES[2:])
