"""`make tutorial` runs a page to its end, and can fail: dev/run_tutorial.py on small pages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from upstream import wait_until

RUNNER = Path(__file__).parent.parent / "dev" / "run_tutorial.py"
PAGE = """\
```python
# figures.py
import json
json.dump({"share": 0.4, "list": [{"a": 1}, {"a": 3.5}]}, open("figures.json", "w"))
```
```sh
python figures.py
```
They are 40 % <!-- figures.json#/share ± 0.01 -->, or
**2.5** <!-- figures.json#/list/1/a - figures.json#/list/0/a ± 0.01 --> more.
```text
not run
```
"""


def tutorial(place: Path, page: str) -> subprocess.CompletedProcess[str]:
    (place / "page.md").write_text(page)
    words = [sys.executable, str(RUNNER), str(place / "page.md")]
    return subprocess.run(words, capture_output=True, text=True, timeout=600)


def test_a_page_whose_figures_come_out_passes(tmp_path: Path):
    done = tutorial(tmp_path, PAGE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "python figures.py" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (PAGE.replace("40 %", "42 %"), "off"),
        (PAGE.replace("2.5", "3"), "off"),
        (PAGE.replace("/share ", "/nothing "), "nan"),
        (PAGE.replace("python figures.py", "python figures.py\nfalse\ntrue"), "exit code 1"),
    ],
)
def test_a_figure_that_is_off_or_missing_and_a_command_that_fails_fail_it(tmp_path, wrong, told):
    done = tutorial(tmp_path, wrong)
    assert done.returncode == 1
    assert told in done.stdout


def test_what_a_page_leaves_running_is_stopped_and_fails_it(tmp_path: Path):
    page = PAGE.replace("python figures.py", "python figures.py\nsetsid sleep 1000 &\necho it=$!")
    done = tutorial(tmp_path, page)
    assert done.returncode == 1
    assert "left a process behind" in done.stdout
    left = int(done.stdout.split("left a process behind: ")[1].split()[0])
    wait_until(lambda: ended(left))


def ended(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
