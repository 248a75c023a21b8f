"""Builds the sdist and the wheel, and installs each into a clean environment of every Python here.

`python dev/check_packages.py [PYTHON]...` prints a line per Python and package: how long the
command takes to start and how large the environment is. Without names it tries `python3.11` to
`python3.14`, as far as they exist. The packages stay in dist/, with their SHA-256 sums in
dist/SHA256SUMS. Exit code 1 if one cannot be installed or does not answer.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYTHONS = tuple(f"python3.{minor}" for minor in (11, 12, 13, 14))
CONFIG = """version: 1
experts: [{name: echo, provider: echo}]
policies: {default: {strategy: fixed, options: {expert: echo}}}
server: {store: none}
"""


def build() -> list[Path]:
    """The paths of a new sdist and a new wheel."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--target", "wheel"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    packages = sorted((ROOT / "dist").glob("routewright-*"))
    sums = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in packages]
    (ROOT / "dist" / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
    return packages


def trial(python: str, package: Path) -> str:
    """Installs a package into a new environment and asks it something; what there is to tell."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        subprocess.run([python, "-m", "venv", place / "venv"], check=True)
        bin_ = place / "venv" / "bin"
        _run(bin_ / "python", "-m", "pip", "install", "--quiet", "--no-compile", str(package))
        size = sum(f.stat().st_size for f in (place / "venv").rglob("*") if f.is_file())
        _run(bin_ / "routewright", "--version")
        began = time.perf_counter()
        version = _run(bin_ / "routewright", "--version").strip()
        took = time.perf_counter() - began
        (place / "routewright.yaml").write_text(CONFIG, encoding="utf-8")
        _run(bin_ / "routewright", "check", str(place / "routewright.yaml"))
        _run(bin_ / "python", "-c", "import routewright; routewright.serve")
    return f"{version}: starts in {took:.2f} s, {size / 1e6:.0f} MB with pip"


def _run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main() -> int:
    packages = build()
    pythons = sys.argv[1:] or [name for name in PYTHONS if shutil.which(name)]
    for python in pythons:
        for package in packages:
            print(f"{python}, {package.name}: {trial(python, package)}", flush=True)
    if not pythons:
        print(f"none of {', '.join(PYTHONS)} is here")
    return 0 if pythons else 1


if __name__ == "__main__":
    sys.exit(main())
