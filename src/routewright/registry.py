"""The plug-in families; finds, checks and builds their members.

A member is named after its file: `strategies/cascade.py` holds `Cascade`. Other packages add
members with an entry point in the family's group, such as `routewright.strategies`. `build` makes a
member from `name`, `name=argument` or a mapping, and checks its options with Pydantic, so that the
same mistake gives the same message in every family.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    NamedTuple,
    TypeAlias,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from routewright.errors import BadInput

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

Spec: TypeAlias = str | Mapping[str, Any]  # "numeric=0.01", or {"grader": "numeric", …}


class Family(NamedTuple):
    """One kind of plug-in; the entry-point group of `strategies` is `routewright.strategies`."""

    noun: str
    package: str  # each of its files is a member
    protocol: str  # MODULE:NAME
    purpose: str

    @property
    def key(self) -> str:
        """The key of a member's name in a mapping: `strategy`, `reward`."""
        return self.noun.partition(" ")[0]


FAMILIES = {
    "strategies": Family(
        "strategy",
        "routewright.strategies",
        "routewright.types:Strategy",
        "Decides which experts are asked about a query, and which answer the client gets.",
    ),
    "predictors": Family(
        "predictor",
        "routewright.prediction.predictors",
        "routewright.prediction.predictors:Predictor",
        "Predicts each expert's score on a query without asking it.",
    ),
    "encoders": Family(
        "encoder",
        "routewright.prediction.encoders",
        "routewright.prediction.encoders:Encoder",
        "Turns queries into the vectors that predictors read.",
    ),
    "graders": Family(
        "grader",
        "routewright.grading.graders",
        "routewright.grading.graders:Grader",
        "Scores an answer between 0 and 1.",
    ),
    "rewards": Family(
        "reward model",
        "routewright.grading.rewards",
        "routewright.grading.rewards:RewardModel",
        "Rates answers on a scale of its own; higher is better.",
    ),
    "providers": Family(
        "provider",
        "routewright.experts.providers",
        "routewright.experts.providers:Provider",
        "Sends requests to one kind of endpoint.",
    ),
}

REMOVED = {  # by family, removed members that older routers may name
    "predictors": {"kernel": "was removed, as it improved no router: fit the router again"}
}
LONGEST_SHOWN = 60  # characters of a value in a message
MANY = 20  # if a name has a close match, a longer list of names is not shown


@cache
def names(family: str) -> tuple[str, ...]:
    """The members of a family, e.g. of `strategies`, in alphabetical order."""
    return tuple(sorted(_files(family) | set(_plugins(family))))


@cache
def find(family: str, name: str) -> Any:
    """The class of a name.

    Raises BadInput for an unknown name, with the names that exist, and for a plug-in that cannot be
    imported.
    """
    noun = FAMILIES[family].noun
    if name in _files(family):
        return getattr(import_module(f"{FAMILIES[family].package}.{name}"), class_name(name))
    if name in _plugins(family):
        try:
            return _plugins(family)[name].load()
        except Exception as error:  # a plug-in may raise anything
            source = _plugins(family)[name].value
            raise BadInput(
                f"{noun} '{name}' cannot be loaded from {source}: {error}; install its requirements"
            ) from error
    if reason := REMOVED.get(family, {}).get(name):
        raise BadInput(f"{noun} '{name}' {reason}")
    raise BadInput(f"no {noun} is called '{name}': {way_out(name, names(family))}")


def name_of(family: str, member: object) -> str:
    """The name for which `find` returns the member's class."""
    package, _, file = type(member).__module__.rpartition(".")
    if package != FAMILIES[family].package:
        for name in _plugins(family):
            with suppress(BadInput):
                if find(family, name) is type(member):
                    return name
    return file


def build(family: str, spec: Spec, **objects: Any) -> Any:
    """A member from `name`, `name=argument`, or a mapping of its name and its options.

    The argument sets the required option, or the only option of the member. Values are converted
    to the types of the options: text to numbers, lists to tuples, mappings to members. `objects`
    holds arguments that are not plain data, such as a strategy's `router`; a member without such
    an argument is built without it.

    >>> build("graders", "numeric=0.01").tolerance
    0.01
    >>> build("strategies", {"strategy": "cascade", "ladder": ["small", "large"]}).ladder
    ('small', 'large')

    Raises BadInput for an unknown name, and for an option that is unknown or missing, or whose
    value does not fit.
    """
    extra = {name: value for name, value in objects.items() if value is not None}
    name, chosen = _read(family, spec)
    cls = find(family, name)
    for fault in faults(family, name, chosen, extra):
        raise BadInput(fault.sentence)
    fields = options(cls)
    arguments = {key: value for key, value in extra.items() if takes(cls, key)}
    for key, value in chosen.items():
        arguments[key] = fields[key].convert(value, extra) if key in fields else value
    return cls(**arguments)


def choose(word: object, names: Iterable[str]) -> str:
    """Advice for a misspelt name: the closest match and the names that exist.

    >>> choose("cascad", ["cascade", "fixed"])
    "did you mean 'cascade'? There are: cascade, fixed"
    """
    candidates = list(names)
    close = get_close_matches(str(word), candidates, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    if close and len(candidates) > MANY:
        return hint.strip()
    return f"{hint}There are: {', '.join(candidates) or 'none'}"


def way_out(word: object, names: Iterable[str]) -> str:
    """The advice of `choose`, worded for the end of a sentence."""
    advice = choose(word, names)
    return advice.replace("There are: ", f"{'choose' if advice[0] == 'T' else 'Choose'} one of ")


def class_name(name: str) -> str:
    """The class name of a member.

    >>> class_name("ratio_greedy")
    'RatioGreedy'
    """
    return "".join(part.capitalize() for part in name.split("_"))


@cache
def _files(family: str) -> frozenset[str]:
    """The members in the family's package, which is not imported: it may load an array library."""
    package = find_spec(FAMILIES[family].package)
    assert package is not None, f"the package of {family} is part of this one"
    modules = iter_modules(package.submodule_search_locations)
    return frozenset(module.name for module in modules if not module.name.startswith("_"))


@cache
def _plugins(family: str) -> dict[str, Any]:
    from importlib import metadata  # slow to import, and needed only for plug-ins

    points = metadata.entry_points(group=f"routewright.{family}")
    return {point.name: point for point in points if not point.name.startswith("_")}


def _read(family: str, spec: Spec) -> tuple[str, dict[str, Any]]:
    """A member's name and its options, from a spec; raises BadInput if it cannot be read."""
    noun, key = FAMILIES[family].noun, FAMILIES[family].key
    if not isinstance(spec, str):
        if not isinstance(spec.get(key), str):
            raise BadInput(f"a {noun} needs a name: write it under `{key}`")
        return spec[key], {option: value for option, value in spec.items() if option != key}
    name, _, argument = spec.partition("=")
    cls = find(family, name)
    fields = options(cls)
    # The argument sets the required option, or the only option of the member.
    candidates = [option for option in fields if fields[option].required] or list(fields)
    target = candidates[0] if len(candidates) == 1 else None
    if argument and target is None:
        raise BadInput(f"{noun} '{name}' takes nothing after '=': write {name}, not '{spec}'")
    if not argument and target is not None and fields[target].required:
        summary = " ".join((inspect.getdoc(cls) or "").partition("\n\n")[0].split())
        raise BadInput(f"{noun} '{name}' needs {target}: write {name}={target.upper()} ({summary})")
    return name, {target: argument} if argument and target else {}


# --- options ---------------------------------------------------------------------------------


class Option(NamedTuple):
    """One option of a member that a config or the command line can set."""

    hint: Any  # its type
    default: Any  # inspect.Parameter.empty if it is required
    adapter: TypeAdapter[Any] | None  # converts plain data; None if the value is a member
    family: str | None  # the family of such a member

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def convert(self, value: Any, objects: Mapping[str, Any]) -> Any:
        """The value in the option's type; raises pydantic's ValidationError if it does not fit."""
        if self.adapter is None:
            assert self.family is not None, "an option is plain data or another member"
            return build(self.family, value, **objects) if _is_data(value) else value
        if isinstance(value, str) and value.lower() == "none" and self._is_optional_non_text():
            return None
        return self.adapter.validate_python(value)

    def _is_optional_non_text(self) -> bool:
        return NoneType in get_args(self.hint) and str not in get_args(self.hint)


class Fault(NamedTuple):
    """One mistake in the options of a member."""

    loc: tuple[str | int, ...]  # the option, and the path into its value
    problem: str  # "must be a number"
    fix: str
    sentence: str  # the whole message, for a reader who does not see the file
    kind: Literal["unknown", "missing", "object", "value"] = "value"


@cache
def options(cls: Any) -> Mapping[str, Option]:
    """The options of a member: the arguments of its class that plain data can set.

    A dataclass field with `repr=False` holds fitted state and is not an option.
    """
    hints = _hints(cls)
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    hidden = {field.name for field in fields if not field.repr}
    result = {}
    for name, default in _parameters(cls).items():
        hint = hints.get(name, Any)
        family, adapter = _family_of(hint), _adapter(hint)
        if name not in hidden and (family or adapter):
            result[name] = Option(hint, default, adapter, family)
    return result


def settings(member: Any) -> dict[str, Any]:
    """The values of a member's options; `build` makes an equal member from them."""
    cls: Any = type(member)
    return {name: getattr(member, name) for name in options(cls)}


def takes(cls: Any, name: str) -> bool:
    """Whether a class has an argument of that name, such as a strategy's `router`."""
    return name in _parameters(cls)


def faults(
    family: str, name: str, chosen: Mapping[str, Any], objects: Collection[str] = ()
) -> Iterator[Fault]:
    """All mistakes in a member's options and in the members among them.

    `objects` names the further arguments that `build` will get.
    """
    cls, member = find(family, name), f"{FAMILIES[family].noun} '{name}'"
    fields = options(cls)
    for option, value in chosen.items():
        if option not in fields and takes(cls, option) and not _is_data(value):
            continue  # an object, which is not an option
        if option not in fields:
            advice = way_out(option, fields) if fields else "it has none"
            sentence = f"{member} has no option {option}: {advice}"
            problem = f"is no option of {member}"
            yield Fault((option,), problem, choose(option, fields), sentence, "unknown")
        elif (inner := fields[option].family) is not None:
            yield from _faults_of_part(member, option, inner, value, objects)
        else:
            yield from _type_faults(member, option, fields[option], value)
    for option, default in _parameters(cls).items():
        if default is not inspect.Parameter.empty or option in chosen or option in objects:
            continue
        if option in fields:
            fix, sentence = f"add `{option}: …`", f"{member} needs the option {option}"
            yield Fault((option,), f"{member} needs `{option}`", fix, sentence, "missing")
        else:
            problem, fix = f"{member} needs a {option}", f"give it a {option}"
            yield Fault((), problem, fix, problem, "object")


def _faults_of_part(
    member: str, option: str, family: str, value: Any, objects: Collection[str]
) -> Iterator[Fault]:
    """The mistakes in a member that is an option of another one."""
    noun, key = FAMILIES[family].noun, FAMILIES[family].key
    if not _is_data(value):
        return  # the member is built already
    if not isinstance(value, Mapping) or not isinstance(value.get(key), str):
        fix = f"write {{{key}: NAME}}, with its options beside it"
        sentence = f"option {option} of {member} must be a {noun}, not {_shown(value)}: {fix}"
        yield Fault((option,), f"must be a {noun}", fix, sentence)
        return
    name, chosen = _read(family, value)
    try:
        find(family, name)
    except BadInput as error:
        fix = choose(name, names(family))
        yield Fault((option, key), f"is no {noun} that can be used", fix, str(error))
        return
    for fault in faults(family, name, chosen, objects):
        yield fault._replace(loc=(option, *fault.loc))


def _type_faults(member: str, name: str, option: Option, value: Any) -> Iterator[Fault]:
    """The mistakes in a value that is not of the option's type."""
    from pydantic import ValidationError

    try:
        option.convert(value, {})
    except ValidationError as error:
        problems: dict[tuple[str | int, ...], dict[str, str]] = {}  # path ▶ problem ▶ fix
        for detail in error.errors(include_input=False, include_url=False):
            path = tuple(step for step, _ in _inside(value, detail["loc"]))
            problems.setdefault(path, {}).update([mistake(detail)])
        for path, fixes in problems.items():
            if len(path) == max(map(len, problems)):  # the others are of a union's other types
                problem = " or ".join(fixes).replace(" or must be ", " or ")
                *_, (_, part) = ("", value), *_inside(value, path)
                place = f"option {_path((name, *path))} of {member}"
                sentence = f"{place} {problem}, not {_shown(part)}"
                yield Fault((name, *path), problem, next(iter(fixes.values())), sentence)


def _is_data(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | list | tuple | Mapping)


def _inside(value: Any, loc: Sequence[str | int]) -> Iterator[tuple[str | int, Any]]:
    """The steps of pydantic's `loc` that index into the value, with the part of the value that
    each one reaches; the other steps name types and are omitted."""
    for step in loc:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            continue
        yield step, value


def _path(loc: tuple[str | int, ...]) -> str:
    """The steps as text.

    >>> _path(("ladder", 1))
    'ladder[1]'
    """
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in loc)
    return "".join(steps).removeprefix(".")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 1]}…"


@cache
def _parameters(cls: Any) -> Mapping[str, Any]:
    """The arguments of a class and their defaults."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in parameters if p.kind in kinds}


def _hints(cls: Any) -> dict[str, Any]:
    """The types of a class's arguments; empty if they cannot be resolved."""
    try:
        return get_type_hints(
            cls if dataclasses.is_dataclass(cls) else getattr(cls, "__init__", cls),
            include_extras=True,
        )
    except (NameError, TypeError, AttributeError):
        return {}


def _family_of(hint: Any) -> str | None:
    """The family of the member that a field holds; None if it holds plain data."""
    hints = get_args(hint) if get_origin(hint) in (UnionType, Union) else (hint,)
    for name, family in FAMILIES.items():
        module, _, protocol = family.protocol.partition(":")
        # A class whose field names a protocol has imported it.
        cls = getattr(sys.modules.get(module), protocol, None)
        if cls is not None and cls in hints:
            return name
    return None


def _adapter(hint: Any) -> TypeAdapter[Any] | None:
    """The adapter that converts plain data to a type; None for a type without plain values."""
    from pydantic import ConfigDict, PydanticUndefinedAnnotation, PydanticUserError, TypeAdapter

    for config in (ConfigDict(allow_inf_nan=False), None):  # some types allow no config
        with suppress(PydanticUserError, PydanticUndefinedAnnotation):
            return TypeAdapter(hint, config=config)
    return None


# --- messages for pydantic's errors ----------------------------------------------------------

EMPTY = ("must not be empty", "fill it in, or leave the key out")
LIST = ("must be a list", "write [one, two], or one `- entry` a line")
MAPPING = ("must be a mapping", "write `key: value` lines below it")
NUMBER = ("must be a number", "write it without a unit, or leave the key out")
WHOLE = ("must be a whole number", "write it without point or unit, or leave the key out")
KINDS = {
    "string_type": ("must be text", "put it in quotes"),
    "path_type": ("must be a path", "put it in quotes"),
    **dict.fromkeys(("string_too_short", "too_short"), EMPTY),
    "finite_number": ("must be a finite number", "leave the key out if there is no limit"),
    "number_type": NUMBER,
    **dict.fromkeys(("float_type", "float_parsing"), NUMBER),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), WHOLE),
    **dict.fromkeys(
        ("bool_type", "bool_parsing"), ("must be true or false", "write true or false")
    ),
    **dict.fromkeys(("list_type", "tuple_type", "frozen_set_type", "set_type"), LIST),
    **dict.fromkeys(("dict_type", "mapping_type"), MAPPING),
    **dict.fromkeys(("model_type", "model_attributes_type"), MAPPING),
}
BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def mistake(error: ErrorDetails, meaning: str = "") -> tuple[str, str]:
    """The problem with a value, and how to fix it."""
    advice = f"change the value: {meaning}" if meaning else "change the value"
    if error["type"] in KINDS:
        return KINDS[error["type"]]
    context = error.get("ctx", {})
    advice = context.get("fix", advice)
    for bound, words in BOUNDS.items():
        if bound in context:
            return f"must be {words} {context[bound]:g}", advice
    return error["msg"].replace("Input should be", "must be"), advice
