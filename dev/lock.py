"""Writes and checks dev/constraints.txt: the exact version of everything in the development
environment, for the extras given (`make lock` and `make check` name them).

`python dev/lock.py dev,train` upgrades the environment to the newest versions that pyproject.toml
allows, and writes them down. `--installed` writes those that are installed, `--check` says what is
missing in the file. The file holds names and versions only: no address of an index.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
FILE = ROOT / "dev" / "constraints.txt"
UNPINNED = ("pip",)  # it is what installs the others
KEPT = ("torch",)  # upgraded by hand: the newest may bring gigabytes of CUDA libraries on Linux
HEADER = """\
# The versions that `make test` installs, and with it continuous integration. Users are not bound by
# it. `make lock` writes this file, on Linux: what other platforms need in addition is not pinned,
# and what they do not need is not installed there.
"""


def main(arguments: list[str]) -> int:
    extras = arguments[-1].split(",")
    if "--check" in arguments:
        problems = list(mistakes(extras))
        print("\n".join(problems) or "the lock is complete")
        return 1 if problems else 0
    if "--installed" not in arguments:
        upgrade(extras)
    versions = installed(requirements(extras))
    lines = [f"{name}=={version}" for name, version in sorted(versions.items())]
    FILE.write_text(HEADER + "\n".join(lines) + "\n", encoding="utf-8")
    return 0


def requirements(extras: Iterable[str]) -> list[Requirement]:
    """What pyproject.toml requires on this platform, with these extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    options = project["optional-dependencies"]
    texts = [*project["dependencies"], *(text for extra in extras for text in options[extra])]
    return [r for r in map(Requirement, texts) if _applies(r, "")]


def installed(roots: Iterable[Requirement]) -> dict[str, str]:
    """The installed version of everything that is required, directly or not, by name.

    Labels of local builds (`+cpu`) are left out: another index may have another build.
    """
    versions: dict[str, str] = {}
    seen: set[str] = set()
    pending = list(roots)
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        key = f"{name}[{','.join(sorted(requirement.extras))}]"
        if key in seen or name in UNPINNED:
            continue
        seen.add(key)
        found = distribution(name)
        versions[name] = found.version.partition("+")[0]
        for further in map(Requirement, found.requires or ()):
            if any(_applies(further, extra) for extra in ("", *requirement.extras)):
                pending.append(further)
    return versions


def _applies(requirement: Requirement, extra: str) -> bool:
    environment = {**default_environment(), "extra": extra}
    return requirement.marker is None or requirement.marker.evaluate(environment)


def pins() -> dict[str, str]:
    """The versions in the file, by name."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {canonicalize_name(name): version for name, version in pairs}


def mistakes(extras: Iterable[str]) -> Iterator[str]:
    """Requirements that are not pinned, or are pinned to a version that their range excludes."""
    versions = pins()
    for requirement in requirements(extras):
        version = versions.get(canonicalize_name(requirement.name))
        if version is None:
            yield f"{FILE.name}: {requirement.name} is not pinned: make lock"
        elif version not in requirement.specifier:
            yield f"{FILE.name}: {requirement.name} {version} is not in its range: make lock"
    try:
        absent = installed(requirements(extras)).keys() - versions.keys()
    except PackageNotFoundError as error:
        yield f"the environment lacks {error.name}: make test installs it"
        return
    if sys.platform == "linux":  # other platforms need other packages in addition
        yield from (f"{FILE.name}: {name} is not pinned: make lock" for name in sorted(absent))


def upgrade(extras: Iterable[str]) -> None:
    """Installs the newest versions that pyproject.toml allows."""
    kept = [f"{name}=={version}\n" for name, version in pins().items() if name in KEPT]
    constraints = ROOT / "dev" / ".kept.txt"
    constraints.write_text("".join(kept), encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--upgrade"]
    pip += ["--upgrade-strategy", "eager", "--constraint", str(constraints)]
    try:
        subprocess.run([*pip, "--editable", f"{ROOT}[{','.join(extras)}]"], check=True)
    finally:
        constraints.unlink()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
