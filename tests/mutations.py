"""Damages a saved router at random places, and does with it what people do with routers."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from routewright.drive import replay
from routewright.router import explanation
from routewright.router.router import Router
from routewright.types import Answer, Query

QUERIES = [
    Query.of(""),
    Query.of("add the numbers 12 and 30 please", domain="sums"),
    Query.of("Which one?\nA. one\nB. two\nC. 3.5\nD. four", domain="words"),
]
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        "",
        "text",
        "128",
        "../../etc/passwd",
        "\0",
        [],
        {},
        [[]],
        [None],
        {"": 0},
    ),
    *(-1, 0, 1, 3, 0.5, -0.5, 10**6, 2**31, 2**62, 1e300, -1e300, 1e-300),
)
RAW = ("NaN", "-Infinity", "1e999", "9" * 400, "[" * 2000 + "]" * 2000, '"\\ud800"', "tru", "{")
MARK = "the place of raw text"


def damage(folder: Path, rng: random.Random) -> str:
    """Changes one or two things in a router's folder; what they were."""
    kinds = (damage_json, damage_json, damage_arrays)
    return "; ".join(rng.choice(kinds)(folder, rng) for _ in range(rng.choice((1, 1, 2))))


def damage_json(folder: Path, rng: random.Random) -> str:
    file = folder / "router.json"
    try:
        described = json.loads(file.read_text())
    except (ValueError, RecursionError):
        return "nothing more"
    place: Any = described
    path: list[Any] = []
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        path.append(rng.choice(keys))
        inner = place[path[-1]]
        if not isinstance(inner, dict | list) or not inner or rng.random() < 0.15:
            break
        place = inner
    how = rng.random()
    raw = ""
    if how < 0.15:
        del place[path[-1]]
        value: Any = "(deleted)"
    elif how < 0.25 and isinstance(place, list):
        value = rng.choice(("(doubled)", "(reversed)"))
        place.append(place[path[-1]]) if value == "(doubled)" else place.reverse()
    elif how < 0.35:
        raw, value = rng.choice(RAW), "raw"
        place[path[-1]] = MARK
    elif how < 0.45:
        other = rng.choice(list(described))
        value = f"that of {other}"
        place[path[-1]] = described[other]
        if other == path[0]:
            place[path[-1]] = 1
    else:
        place[path[-1]] = value = rng.choice(VALUES)
    file.write_text(json.dumps(described).replace(f'"{MARK}"', raw))
    return f"{'.'.join(map(str, path))} = {raw[:20] or value!r}"


def damage_arrays(folder: Path, rng: random.Random) -> str:
    file = folder / "router.safetensors"
    arrays = load_file(file)
    name = rng.choice(list(arrays))
    array = np.array(arrays[name])
    how = rng.choice(
        ("shorter", "longer", "flat", "deeper", "turned", "empty", "type", "cells", "cells", "gone")
    )
    if how == "shorter":
        array = array[:-1]
    elif how == "longer":
        array = np.concatenate([array, array[:1]])
    elif how == "flat":
        array = array.ravel()
    elif how == "deeper":
        array = array[None]
    elif how == "turned":
        array = array.T
    elif how == "empty":
        array = array[:0]
    elif how == "type":
        kind = rng.choice(("float16", "float32", "float64", "int8", "int64", "uint64", "bool"))
        with np.errstate(all="ignore"):
            array = array.astype(kind)
        how = kind
    elif how == "cells" and array.size:
        values: list[Any] = [0, 1, -1, 2**31 - 1, 1e6]
        if array.dtype.kind == "f":
            values += [np.nan, np.inf, -np.inf, 1e300, 1e15, -1e15, 1e-300, 0.5]
        value = rng.choice(values)
        some = slice(None) if rng.random() < 0.3 else rng.randrange(array.size)
        with np.errstate(all="ignore"):
            array.reshape(-1)[some] = np.array(value).astype(array.dtype)
        how = f"{value} at {some}"
    arrays[name] = np.ascontiguousarray(array)
    if how == "gone":
        del arrays[name]
    save_file(arrays, file)
    return f"{name}: {how}"


def use(folder: Path, rng: random.Random) -> None:
    """Loads a router, predicts, explains, and follows the plans of some of its points."""
    router = Router.load(folder)
    router.predict(QUERIES)
    assert str(router)
    assert repr(router)
    router.nearest(0.0)
    answers = {
        kind: Answer(
            name,
            text=rng.choice(("B", "The answer is C.", "42", "")),
            cost=1e-4,
            confidence=rng.random(),
            score=1.0,
        )
        for name in (*router.experts, *router.verifiers)
        for kind in (name, (name, "verify"))
    }
    for point in rng.sample(router.frontier, min(3, len(router.frontier))):
        query = rng.choice(QUERIES)
        explanation.explain(router, point, query)
        replay(router.strategy_at(point), query, answers)
