"""What an installation without extras can do, and what it says about the rest."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from routewright.cli.main import app
from routewright.data import outcomes
from routewright.errors import EXTRAS, BadInput, MissingExtra, needs
from routewright.fitting import automix
from routewright.fitting.fit import fit, fit_each
from routewright.registry import names
from tables import write
from test_auto import CHEAP, EVERYBODY, exam

TRAIN = sorted(package for package, extra in EXTRAS.items() if extra == "train")
WITHOUT_EXTRAS = f"""
import sys
class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {list(EXTRAS)}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, NotInstalled())
"""
CONFIG = """\
version: 1
experts:
  - {name: sage, provider: sandbox, output_per_mtok: 10.0}
EXPERTS
policies:
POLICIES
server: {feedback: feedback.jsonl}
"""
SERVES = """
import json
from pathlib import Path
from starlette.testclient import TestClient
from typer.testing import CliRunner
import routewright as rw
from routewright.cli.main import app

def command(*arguments):
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output

folder = Path(sys.argv[1])
command("check", str(folder / "routewright.yaml"))
for router in sorted(folder.glob("router-*")):
    command("route", str(router), "What is 2 + 2?", "--explain")
    command("calibrate", str(router), "--max-cost-fraction", "1")
served = 0
with TestClient(rw.serve(folder / "routewright.yaml", run=False)) as client:
    for model in client.get("/v1/models").json()["data"]:
        body = {"model": model["id"], "messages": [{"role": "user", "content": "What is 2 + 2?"}]}
        reply = client.post("/v1/chat/completions", json=body)
        assert reply.status_code == 200, (model, reply.text)
        score = {"decision_id": reply.json()["routewright"]["decision_id"], "score": 1.0}
        assert client.post("/v1/feedback", json=score).status_code == 200
        served += 1
print(json.dumps({"served": served, "loaded": sorted(sys.modules)}))
"""


STRATEGIES = {
    "auto": "{price: 0.1}",
    "frugal": "{trust: 0.9}",
    "cascade_routing": "{price: 0.1, answers: letter}",
}


def without_extras(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_EXTRAS + code, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A config with a policy for a router of every kind."""
    folder = tmp_path_factory.mktemp("light")
    rows = outcomes.read(write(folder, exam(80)))
    routers = fit_each(rows, ("auto", "frugal", "cascade_routing"))
    for name in sorted({*names("predictors")} - {"transformer", "pool", "extended", "stack"}):
        routers[name] = fit(rows, strategy="single", predictor=name, encoder="surface")
    routers["automix"] = automix.fit(rows, automix.Cascade((CHEAP[0], "sage"), agree=CHEAP[1:]))
    for name, router in routers.items():
        router.save(folder / f"router-{name}")
    experts = [f"  - {{name: {name}, provider: sandbox, model: abacus}}" for name in CHEAP]
    policies = [
        f"  {name}: {{strategy: auto, router: router-{name}, max_cost_fraction: 1}}"
        for name in routers
    ]
    policies += [  # whatever is learned, and not the fixed mix that may be better on so few rows
        f"  {name}-itself: {{strategy: {name}, router: router-{name}, options: {options}}}"
        for name, options in STRATEGIES.items()
    ]
    text = CONFIG.replace("EXPERTS", "\n".join(experts)).replace("POLICIES", "\n".join(policies))
    (folder / "routewright.yaml").write_text(text)
    return folder


def test_every_router_is_served_without_extras(folder):
    done = without_extras(SERVES, str(folder))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    routers = len(list(folder.glob("router-*")))
    assert report["served"] == 1 + routers + len(STRATEGIES) + len(EVERYBODY)
    assert not {name.partition(".")[0] for name in report["loaded"]} & set(EXTRAS)
    lines = (folder / "feedback.jsonl").read_text().splitlines()
    assert len(lines) == report["served"]


def test_serving_loads_no_library_of_the_extra_train(folder):
    """With everything installed, so that nothing is tried and given up."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys\n" + SERVES, str(folder)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not set(json.loads(done.stdout)["loaded"]) & set(TRAIN)


COMMANDS = {  # verb ▶ arguments that come as far as needing the extra
    "demo": ["--once", "--folder", "demo"],
    "convert": ["llmrouter", "rows.jsonl", "--out", "converted.parquet"],
    "interview": ["routewright.yaml", "queries.jsonl", "--out", "new.parquet"],
    "tag": ["queries.jsonl", "--clusters", "2", "--out", "tagged.parquet"],
    "diversify": ["queries.jsonl", "--out", "fewer.jsonl"],
    "reward": ["rows.jsonl", "--out", "rewarded.parquet", "--model", "judge=sage"],
    "fit": ["rows.jsonl", "--out", "router"],
    "evaluate": ["router-prior", "rows.jsonl"],
    "select": ["rows.jsonl", "--size", "2"],
    "add-expert": ["router-prior", "rows.jsonl", "--expert", "newcomer", "--out", "router"],
    "selfplay": ["routewright.yaml", "router-prior", "--out", "played"],
    "dedicate": ["train", "lessons.jsonl", "--base", "base", "--out", "own"],
}


def test_every_other_command_names_the_extra(folder):
    (folder / "queries.jsonl").write_text('{"prompt": "What is 2 + 2?", "reference": "4"}\n')
    (folder / "rows.jsonl").write_text('{"id": "1", "prompt": "hi", "expert": "a", "score": 1}\n')
    (folder / "lessons.jsonl").write_text("{}\n")
    code = f"""
import json, os
from typer.testing import CliRunner
from routewright.cli.main import app
os.chdir({str(folder)!r})
said = {{}}
for verb, arguments in {COMMANDS}.items():
    done = CliRunner().invoke(app, [verb, *arguments])
    said[verb] = [type(done.exception).__name__, str(done.exception), done.output]
print(json.dumps(said))
"""
    done = without_extras(code)
    assert done.returncode == 0, done.stderr
    for verb, (kind, message, output) in json.loads(done.stdout).items():
        assert kind == "MissingExtra", (verb, kind, message, output)
        assert message.endswith("needs more packages: pip install 'routewright[train]'")
        assert message.startswith((f"`routewright {verb}`", "an outcome table")), message
    able = {"serve", "experts", "check", "calibrate", "route"}
    verbs = CliRunner().invoke(app, ["--help"]).output
    assert all(f" {verb} " in verbs for verb in able | set(COMMANDS))


def test_a_missing_extra_is_one_sentence_and_exit_code_2(folder):
    code = """
from routewright.cli.main import run
sys.argv = ["routewright", "demo", "--folder", sys.argv[1]]
run()
"""
    done = without_extras(code, str(folder / "demo"))
    assert done.returncode == 2
    sentence = "`routewright demo` needs more packages: pip install 'routewright[train]'"
    assert done.stderr.strip() == f"Error: {sentence}"


def test_a_library_call_names_the_extra_too(folder):
    code = """
import routewright as rw
try:
    rw.read(sys.argv[1])
except rw.errors.BadInput as error:
    print(error)
"""
    done = without_extras(code, str(folder / "outcomes.parquet"))
    sentence = "an outcome table needs more packages: pip install 'routewright[train]'"
    assert done.stdout.strip() == sentence, done.stderr


def test_every_public_name_can_be_imported_without_extras():
    done = without_extras("import routewright; [getattr(routewright, n) for n in dir(routewright)]")
    assert done.returncode == 0, done.stderr


def test_a_broken_package_says_what_is_wrong_with_it():
    with (
        pytest.raises(MissingExtra, match=r"routewright\[lm\]'.*cannot import name 'Tensor'"),
        needs("predictor 'transformer'"),
    ):
        raise ImportError("cannot import name 'Tensor'", name="torch")
    with pytest.raises(ImportError, match="ours"), needs("predictor 'transformer'"):
        raise ImportError("ours", name="routewright.nothing")
    assert issubclass(MissingExtra, BadInput)


def test_the_extras_are_those_of_the_package():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())[
        "project"
    ]
    extras = project["optional-dependencies"]
    other_names = {"sklearn": "scikit-learn", "referencing": "jsonschema"}
    for package, extra in EXTRAS.items():
        name = other_names.get(package, package.replace("_", "-"))
        assert any(requirement.startswith(name) for requirement in extras[extra]), package
    assert len(TRAIN) == len(extras["train"])
    assert not [d for d in project["dependencies"] if d.startswith(tuple(TRAIN))]
