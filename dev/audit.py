"""Looks the locked packages up in a database of known vulnerabilities, with pip-audit.

A vulnerability fails, unless dev/audit-ignore.txt lists its id with a reason. Where no database can
be reached, one line says so, and nothing fails.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LOCK, IGNORED = ROOT / "dev" / "constraints.txt", ROOT / "dev" / "audit-ignore.txt"
ANSWER, ALL = 5, 120  # seconds for one reply of the database, and for everything


def main() -> int:
    ids, problems = ignored()
    if problems:
        print("\n".join(problems))
        return 1
    report = audit(ids)
    checked = [entry for entry in report.get("dependencies", []) if "skip_reason" not in entry]
    if not checked:  # an index without a database does not know a single package
        print("pip-audit: skipped, because no database of vulnerabilities can be reached")
        return 0
    lines = [
        f"{entry['name']} {entry['version']}: {vulnerability['id']}, fixed in"
        f" {', '.join(vulnerability['fix_versions']) or 'no version'}"
        for entry in checked
        for vulnerability in entry["vulns"]
    ]
    print("\n".join(lines) or f"pip-audit: no known vulnerability in {len(checked)} packages")
    if lines:
        print(f"upgrade them (make lock), or add `ID reason` to {IGNORED.relative_to(ROOT)}")
    return 1 if lines else 0


def ignored() -> tuple[list[str], list[str]]:
    """The ids in dev/audit-ignore.txt, and its lines without a reason."""
    lines = IGNORED.read_text(encoding="utf-8").splitlines()
    entries = [line.split(None, 1) for line in lines if line.strip() and line[0] != "#"]
    bad = [f"{IGNORED.name}: {entry[0]} has no reason" for entry in entries if len(entry) < 2]
    return [entry[0] for entry in entries], bad


def audit(ids: list[str]) -> dict[str, Any]:
    """The report of pip-audit; empty if it could not be made."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(LOCK)]
    command += ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
    command += ["--timeout", str(ANSWER), *(part for id in ids for part in ("--ignore-vuln", id))]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=ALL)
        report = json.loads(result.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        return {}
    return report if isinstance(report, dict) else {}


if __name__ == "__main__":
    sys.exit(main())
