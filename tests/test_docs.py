"""`make check` runs the Python of the docs and checks their configs, and can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUNNER = Path(__file__).parent.parent / "dev" / "run_docs.py"
GOOD = """\
# A page

```python
import json
from pathlib import Path
from openai import OpenAI
import routewright as rw

table = rw.read("OUTCOMES.parquet")
assert Path("router/router.json").exists()
assert json.load(open("figures.json"))["n"] == 60
decision = await rw.decide("What is 2 + 2?")
```

The next block knows the names of the first; the third is not run.

```python
assert len(table) == 180
client = OpenAI(base_url="http://127.0.0.1:4100/v1", api_key="none")
assert client.models.list().data[0].id == "auto"
```

<!-- not run: it needs a GPU -->
```python
raise SystemError
```

```yaml
not: [Python
```

```yaml
# good.yaml
version: 1
experts: [{name: large, model: gpt-4o, api_key: "${SOME_KEY}"}]
policies: {default: {strategy: fixed, options: {expert: large}}}
```
"""
BAD = """\
```python
one = 1
```

```python
def divide():
    return one / 0


divide()
```

```python
two = = 2
```

```python
missing
```

```yaml
# bad.yaml
version: 1
experts:
  - {name: small, provider: echo}
policies: {default: {strategy: fixed, options: {expert: smal}}}
```
"""


def test_pages_pass_where_their_blocks_run_and_fail_with_file_and_line(tmp_path: Path):
    (tmp_path / "good.md").write_text(GOOD)
    (tmp_path / "bad.md").write_text(BAD)
    command = [sys.executable, str(RUNNER), "good.md", "bad.md"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    marked, *problems = done.stdout.splitlines()
    assert marked == "good.md:24: not run: it needs a GPU"
    assert problems == [
        "bad.md:7: ZeroDivisionError: division by zero",
        "bad.md:14: SyntaxError: invalid syntax (bad.md, line 14)",
        "bad.md:18: NameError: name 'missing' is not defined",
        "bad.md:26: bad.yaml:5:57: error: policies.default.options.expert (smal): "
        "is no expert of this file",
        "    did you mean 'small'? There are: small",
    ]


def test_a_page_that_runs_passes(tmp_path: Path):
    (tmp_path / "page.md").write_text("```python\nprint(1)\n```\n")
    command = [sys.executable, str(RUNNER), "page.md"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "the docs run\n"


def test_the_pages_of_every_folder_are_run_but_clients_and_tutorials():
    script = "import run_docs; print(*(p.relative_to(run_docs.ROOT) for p in run_docs.pages()))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=RUNNER.parent, capture_output=True, text=True)
    pages = done.stdout.split()
    assert {"README.md", "docs/gateway.md", "docs/how-to/cut-cost.md"} <= set(pages)
    assert not [page for page in pages if page.startswith(("docs/clients/", "docs/tutorials/"))]


def test_the_lines_of_every_package_are_counted():
    script = RUNNER.with_name("count_lines.py")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    heading, *rows = (line.replace(",", "").split() for line in done.stdout.splitlines())
    assert heading == ["package", "files", "code", "lines"]
    counts = {name: tuple(map(int, cells)) for name, *cells in rows}
    source = RUNNER.parent.parent / "src" / "routewright"
    texts = [path.read_text(encoding="utf-8") for path in source.rglob("*.py")]
    total = counts.pop("together")
    assert total[0] == len(texts)
    assert total[2] == sum(len(text.splitlines()) for text in texts)
    assert total == tuple(map(sum, zip(*counts.values(), strict=True)))
    assert counts["__main__"] == (1, 10, 19)  # without blank lines and docstrings
