"""What `make check` finds: vulnerabilities, an incomplete lock, promises without a test."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DEV = Path(__file__).parent.parent / "dev"


def module(name):
    spec = importlib.util.spec_from_file_location(name, DEV / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def audited(folder, report, ignored=""):
    """Runs dev/audit.py with a pip-audit that prints this report; its exit code and its output."""
    for name in ("dev", "fake"):
        (folder / name).mkdir(exist_ok=True)
    shutil.copy(DEV / "audit.py", folder / "dev")
    (folder / "dev" / "audit-ignore.txt").write_text(f"# a comment\n{ignored}")
    fake = (
        "import json, sys\n"
        f"report = json.loads({json.dumps(json.dumps(report))})\n"
        "for entry in report.get('dependencies', []):\n"
        "    vulns = entry.get('vulns', [])\n"
        "    entry['vulns'] = [v for v in vulns if v['id'] not in sys.argv]\n"
        "print(json.dumps(report) if report else 'no connection')\n"
    )
    (folder / "fake" / "pip_audit.py").write_text(fake)
    environment = {**os.environ, "PYTHONPATH": str(folder / "fake")}
    command = [sys.executable, str(folder / "dev" / "audit.py")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    return result.returncode, result.stdout


HOLE = {"id": "PYSEC-1", "fix_versions": ["2.0"], "aliases": [], "description": "bad"}
FOUND = {"dependencies": [{"name": "left-pad", "version": "1.0", "vulns": [HOLE]}]}
UNKNOWN = {"dependencies": [{"name": "left-pad", "skip_reason": "not found on PyPI"}]}


def test_a_vulnerability_fails_the_check_and_is_named(tmp_path):
    code, told = audited(tmp_path, FOUND)
    assert code == 1
    assert "left-pad 1.0: PYSEC-1, fixed in 2.0" in told


def test_a_vulnerability_that_is_ignored_needs_a_reason(tmp_path):
    code, told = audited(tmp_path, FOUND, "PYSEC-1 we do not call that function\n")
    assert (code, told) == (0, "pip-audit: no known vulnerability in 1 packages\n")
    code, told = audited(tmp_path, FOUND, "PYSEC-1\n")
    assert (code, told) == (1, "audit-ignore.txt: PYSEC-1 has no reason\n")


@pytest.mark.parametrize("report", [{}, UNKNOWN])
def test_where_no_database_answers_the_audit_is_skipped_in_one_line(tmp_path, report):
    code, told = audited(tmp_path, report)
    assert code == 0
    assert told.startswith("pip-audit: skipped")
    assert told.count("\n") == 1


def test_a_requirement_that_is_not_pinned_is_named(tmp_path, monkeypatch):
    lock = module("lock")
    assert not list(lock.mistakes(["dev"]))
    lines = lock.FILE.read_text().splitlines()
    shorter = [line for line in lines if not line.startswith(("hypothesis==", "ruff=="))]
    (tmp_path / "constraints.txt").write_text("\n".join([*shorter, "ruff==0.1"]))
    monkeypatch.setattr(lock, "FILE", tmp_path / "constraints.txt")
    told = "\n".join(lock.mistakes(["dev"]))
    assert "hypothesis is not pinned" in told
    assert "ruff 0.1 is not in its range" in told


def test_the_lock_names_packages_and_no_address():
    lines = module("lock").FILE.read_text().splitlines()
    pinned = [line for line in lines if not line.startswith("#")]
    assert all(len(line.split("==")) == 2 for line in pinned)
    assert not [line for line in pinned if "/" in line or "@" in line]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            "| an idea | it holds | `test_dev.py::test_the_lock_names_packages_and_no_address` |",
            None,
        ),
        ("| an idea | it holds | `test_dev.py::test_of_nothing` |", "there is no test"),
        ("| an idea | it holds | `test_nowhere.py::test_of_nothing` |", "there is no test"),
        ("| an idea | it holds | trust us |", "no test is named"),
    ],
)
def test_a_promise_names_a_test_that_exists(row, problem, monkeypatch):
    monkeypatch.syspath_prepend(DEV)
    page = f"| a client | what follows | test |\n|---|---|---|\n{row}\n\nmore\n"
    problems = module("check_docs")._untested(page)
    assert [text.startswith(problem) for text in problems] == ([True] if problem else [])
