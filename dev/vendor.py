"""Fetches the scripts of the dashboard from npm, with their licences, at pinned versions.

`python dev/vendor.py` downloads the packages and writes the files; `--check` says whether the files
are those that the packages hold, by their hashes, and needs no network.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import urllib.request
from base64 import b64encode
from pathlib import Path

REGISTRY = "https://registry.npmjs.org"
FOLDER = Path(__file__).parent.parent / "src/routewright/gateway/dashboard/static/vendor"
PACKAGES = {  # name ▶ version, and the SHA-512 of its archive as npm writes it
    "htmx.org": (
        "2.0.11",
        "Thx/WtpeOQqSrqBCw/A1cwGJGg4UrVa3+sW0GmrM3p4gJgO89ecH4qtbnyzDDWFvBTqjnIMCgELTNt636dtamA==",
    ),
    "uplot": (
        "1.6.32",
        "KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw==",
    ),
}
FILES = {  # file ▶ package, its place there, SHA-256
    "htmx.min.js": (
        "htmx.org",
        "dist/htmx.min.js",
        "d6fdc75f204e6bdefa99b69bf1e6d4ac69b8a364f77929f45c13476b4000f717",
    ),
    "htmx.LICENSE": (
        "htmx.org",
        "LICENSE",
        "d3d2456f76414f2456104660ebd65aff1c04cd7966b942bdabd63f3cdb316a38",
    ),
    "uPlot.iife.min.js": (
        "uplot",
        "dist/uPlot.iife.min.js",
        "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    ),
    "uPlot.min.css": (
        "uplot",
        "dist/uPlot.min.css",
        "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    ),
    "uPlot.LICENSE": (
        "uplot",
        "LICENSE",
        "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    ),
}


def main(arguments: list[str]) -> int:
    if "--check" not in arguments:
        archives = {name: archive(name, *pin) for name, pin in PACKAGES.items()}
        FOLDER.mkdir(parents=True, exist_ok=True)
        for file, (package, place, _) in FILES.items():
            (FOLDER / file).write_bytes(member(archives[package], place))
    problems = mistakes()
    print("\n".join(problems) or f"{len(FILES)} files in {FOLDER.name}/ are as pinned")
    return 1 if problems else 0


def archive(name: str, version: str, integrity: str) -> bytes:
    """The archive of a package; raises SystemExit if it is not the pinned one."""
    with urllib.request.urlopen(f"{REGISTRY}/{name}/-/{name}-{version}.tgz", timeout=60) as reply:
        content: bytes = reply.read()
    digest = b64encode(hashlib.sha512(content).digest()).decode()
    if digest != integrity:
        raise SystemExit(f"{name} {version} is not the pinned one: its SHA-512 is {digest}")
    return content


def member(content: bytes, place: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as files:
        file = files.extractfile(f"package/{place}")
        assert file is not None, place
        return file.read()


def mistakes() -> list[str]:
    """The files that are absent or not as pinned, and those that nobody pinned."""
    problems = [f"{path.name} is not pinned" for path in FOLDER.iterdir() if path.name not in FILES]
    for file, (_, _, expected) in FILES.items():
        path = FOLDER / file
        digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "absent"
        if digest != expected:
            problems.append(f"{file} is {digest}, and not {expected}")
    return problems


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
