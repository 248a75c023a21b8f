"""Holds the public API to dev/api.json: nothing in it goes or changes unnoticed.

The file has the signature of every name of `routewright.__all__` and of the public members of its
classes, with types. `python dev/check_api.py` prints what differs; `--write` accepts it, so that
every change of the API is seen in the file's own history.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import routewright

SNAPSHOT = Path(__file__).parent / "api.json"


def api() -> dict[str, str]:
    """Name ▶ what it is: `read` ▶ `(paths: …) -> Outcomes`, `Query.lot` ▶ `property`."""
    return {
        name: kind for public in routewright.__all__ for name, kind in _described(public).items()
    }


def _described(name: str) -> dict[str, str]:
    value = getattr(routewright, name)
    if not inspect.isclass(value):
        return {name: _signature(value)}
    constructor = "protocol" if getattr(value, "_is_protocol", False) else _signature(value)
    return {name: constructor} | {f"{name}.{m}": kind for m, kind in _members(value)}


def _members(value: type) -> Iterator[tuple[str, str]]:
    for member, found in vars(value).items():
        if member.startswith("_"):
            continue
        if inspect.isfunction(found) or isinstance(found, classmethod | staticmethod):
            yield member, _signature(getattr(value, member))
        elif hasattr(found, "__get__"):
            yield member, "property"


def _signature(value: Any) -> str:
    """Addresses of functions and objects among the defaults are left out."""
    return re.sub(r"=\s*<.*?>(?=[,)])(?: at \w+>)?", "= …", str(inspect.signature(value)))


def differences(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """One line for each name that was removed, changed or added."""
    lines = [f"removed: {name}" for name in before if name not in now]
    lines += [
        f"changed: {name}\n  was {before[name]}\n  is  {now[name]}"
        for name in before
        if name in now and before[name] != now[name]
    ]
    return lines + [f"added: {name}" for name in now if name not in before]


def main() -> int:
    now = api()
    if "--write" in sys.argv[1:]:
        SNAPSHOT.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return 0
    lines = differences(json.loads(SNAPSHOT.read_text(encoding="utf-8")), now)
    print("\n".join(lines) or f"the public API is as in dev/{SNAPSHOT.name}")
    if lines:
        print("if this is meant: `make api`, and a line in CHANGELOG.md")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
