"""Tasks of Inspect and of lm-evaluation-harness, loaded by their own libraries, as query sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from routewright.data import tasks
from routewright.errors import BadInput
from routewright.grading.graders import build

TASK = """\
from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageSystem, ChatMessageUser

@task
def sums():
    return Task(dataset=MemoryDataset([
        Sample("What is 2 + 2?", target="4", id="plain"),
        Sample("Which is even?", target="B", choices=["3", "4"], id="choice"),
        Sample([ChatMessageSystem(content="Be brief."), ChatMessageUser(content="1 + 1?")],
               target=["2", "two"], metadata={"rubric": "short"}),
    ]))
"""


def test_an_inspect_task_becomes_items(tmp_path: Path, monkeypatch):
    pytest.importorskip("inspect_ai", reason="Inspect is not installed: routewright[inspect]")
    (tmp_path / "my_inspect_tasks.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    plain, choice, chat = tasks.read("inspect_ai=my_inspect_tasks:sums", split="dev")
    assert (plain.query.id, plain.query.text, plain.split) == (
        "sums/plain",
        "What is 2 + 2?",
        "dev",
    )
    assert build("numeric").grade(plain, "4").score == 1
    assert "B. 4" in choice.query.text
    assert build(choice.grader).grade(choice, "(B)").score == 1
    assert [m["role"] for m in chat.query.messages] == ["system", "user"]
    assert (chat.references, chat.facts) == (("2", "two"), {"rubric": "short"})
    with pytest.raises(BadInput, match="MODULE:TASK"):
        tasks.read("inspect_ai=my_inspect_tasks:none")


HARNESS = """\
task: tiny_sums
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: {kind}
doc_to_text: "{{{{question}}}}"
doc_to_target: {target}
{more}
"""


@pytest.mark.parametrize("kind", ["multiple_choice", "generate_until"])
def test_a_task_of_the_harness_becomes_items(tmp_path: Path, monkeypatch, kind):
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: routewright[harness]")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    data = tmp_path / "docs.jsonl"
    data.write_text(json.dumps({"question": "Which is even?", "options": ["3", "4"], "right": 1}))
    choices = kind == "multiple_choice"
    text = HARNESS.format(
        data=data,
        kind=kind,
        target="right" if choices else '"{{options[right]}}"',
        more="doc_to_choice: options" if choices else "generation_kwargs: {until: ['\\n']}",
    )
    (tmp_path / "tiny_sums.yaml").write_text(text)
    [item] = tasks.read(f"lm_eval=tiny_sums@{tmp_path}")
    assert item.query.id == "tiny_sums/0"
    if choices:
        assert item.query.text.startswith("Which is even?\nA. 3\nB. 4")
        assert build(item.grader).grade(item, "B").score == 1
    else:
        assert build("numeric").grade(item, "4").score == 1


def test_a_tool_that_is_not_installed_is_named_with_the_way_out(monkeypatch):
    import sys

    for module, extra in (("inspect_ai", "inspect"), ("lm_eval", "harness")):
        for part in (module, f"{module}.tasks"):  # the second may be loaded already
            monkeypatch.setitem(sys.modules, part, None)
        with pytest.raises(BadInput, match=rf"routewright\[{extra}\]"):
            tasks.read(f"{module}=anything:task")
