"""What `routewright check` and `config.load` promise the person who writes routewright.yaml."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from routewright import config
from routewright.cli.check import check
from routewright.errors import BadConfig
from routewright.experts.limits import BUILT_IN_TOOLS, EVERYTHING
from routewright.strategies import build
from routewright.strategies.cascade import Cascade
from routewright.strategies.fixed import Fixed
from routewright.strategies.mix import Mix
from routewright.types import DATA_CLASSES, Expert

DOCS = Path(__file__).parents[1] / "docs"
GOOD = """\
version: 1
experts:
  - name: small
    base_url: http://127.0.0.1:9001/v1
    data_classes: [public, restricted]
  - name: large
    base_url: https://llm.example.com/v1
    model: large-70b
    api_key: ${LARGE_KEY}
    input_per_mtok: 0.9
    output_per_mtok: 0.9
policies:
  default:
    strategy: single
    router: ./router
    fallback: [small]
  careful:
    strategy: cascade
    options: {ladder: [small, large], trust: 0.8}
"""
SECRET = "sk-do-not-print-me"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARGE_KEY", SECRET)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good config beside its router."""
    (tmp_path / "router").mkdir()
    (tmp_path / "router" / "router.json").write_text('{"experts": ["small", "large"]}')
    (tmp_path / "routewright.yaml").write_text(GOOD, encoding="utf-8")
    return tmp_path / "routewright.yaml"


def run(file: Path, *options: str) -> Result:
    app = typer.Typer()
    app.command()(check)
    return CliRunner().invoke(app, [str(file), *options], env={"COLUMNS": "200"})


def problems(file: Path, text: str) -> list[dict[str, Any]]:
    file.write_text(text, encoding="utf-8")
    result = run(file, "--json")
    report = json.loads(result.stdout)
    mistaken = any(problem["level"] == "error" for problem in report["problems"])
    assert (result.exit_code, report["ok"]) == ((2, False) if mistaken else (0, True))
    return list(report["problems"])


def only(file: Path, old: str, new: str) -> dict[str, Any]:
    """The one problem that a change to the good file causes."""
    assert GOOD.count(old) >= 1
    (problem,) = problems(file, GOOD.replace(old, new, 1))
    return problem


def test_a_good_file_passes_and_its_experts_and_policies_are_shown(file: Path) -> None:
    result = run(file)
    assert result.exit_code == 0
    for shown in ("https://llm.example.com/v1", "0.9 / 0.9", "public, restricted", "careful"):
        assert shown in result.stdout


def test_a_config_becomes_experts(file: Path) -> None:
    experts = config.load(file).experts_by_name()
    assert experts["large"] == Expert(
        name="large",
        model="large-70b",
        base_url="https://llm.example.com/v1",
        api_key=SECRET,
        input_per_mtok=0.9,
        output_per_mtok=0.9,
    )
    assert experts["small"].model == "small"
    assert experts["small"].api_key is None


def test_defaults_of_the_file_are_defaults_of_the_noun(file: Path) -> None:
    entry = config.ExpertConfig(name="small", provider="sandbox")
    assert entry.expert() == dataclasses.replace(Expert("small"), model="small", provider="sandbox")


def test_the_first_policy_is_the_default_and_paths_count_from_the_file(file: Path) -> None:
    loaded = config.load(file)
    assert loaded.default_policy == "default"
    router = loaded.policies["default"].router
    assert router is not None
    assert (loaded.folder / router / "router.json").exists()


def test_options_arrive_as_the_strategy_wants_them(file: Path) -> None:
    policy = config.load(file).policies["careful"]
    assert build(policy.spec()) == Cascade(("small", "large"), 0.8)


@pytest.mark.parametrize(
    ("old", "new", "line", "where", "says"),
    [
        ("version: 1", "version: 2", 1, "version", "write `version: 1`"),
        ("version: 1\n", "", 1, "version", "is missing"),
        ("    model:", "    modle:", 8, "experts[1].modle", "did you mean 'model'?"),
        ("input_per_mtok: 0.9", "input_per_mtok: -1", 10, "experts[1].input_per_mtok", "at least"),
        ("input_per_mtok: 0.9", "input_per_mtok: .inf", 10, "experts[1].input_per_mtok", "finite"),
        ("input_per_mtok: 0.9", "input_per_mtok: yes", 10, "experts[1].input_per_mtok", "number"),
        ("    model: l", "    timeout: 9 s\n    model: l", 8, "experts[1].timeout", "number"),
        ("    model: l", "    region: no\n    model: l", 8, "experts[1].region", "in quotes"),
        ("    model: l", "    capabilities: [tool]\n    model: l", 8, "experts[1].capabilities[0]",
         "did you mean 'tools'? There are: json, tools, vision"),
        ("restricted]", "restrictd]", 5, "experts[0].data_classes[1]",
         "did you mean 'restricted'? There are: public, internal, restricted"),
        ("[public, restricted]", "public", 5, "experts[0].data_classes", "must be a list"),
        ("    model: l", "    provider: opnai\n    model: l", 8, "experts[1].provider",
         "did you mean 'openai'?"),
        ("    model: l", "    verify_prompt: ok? {answer}\n    model: l", 8,
         "experts[1].verify_prompt", "no {question}"),
        ("https://llm", "llm", 7, "experts[1].base_url", "http://"),
        ("9001", "99999", 4, "experts[0].base_url", "malformed"),
        ("example.com/v1", "example.com/v1/chat/completions", 7, "experts[1].base_url",
         "leave out /chat/completions"),
        ("strategy: cascade", "strategy: cascad", 18, "policies.careful.strategy",
         "did you mean 'cascade'?"),
        ("cascade\n    options: {ladder: [small, large], trust: 0.8}",
         "mix\n    options: {first: {strategy: fixed, expert: smal}, second: {strategy: fixed, "
         "expert: large}, share: 0.3}", 19, "policies.careful.options.first.expert",
         "did you mean 'small'?"),
        ("cascade\n    options: {ladder: [small, large], trust: 0.8}",
         "mix\n    options: {first: {strategy: fixed, expert: small}, second: large, share: 0.3}",
         19, "policies.careful.options.second", "must be a strategy"),
        ("cascade\n    options: {ladder: [small, large], trust: 0.8}",
         "mix\n    options: {first: {strategy: fixed, expert: small}, second: {strategy: single}, "
         "share: 0.3}", 19, "policies.careful.options.second", "needs a router"),
        ("ladder: [small, large], ", "", 19, "policies.careful.options.ladder", "needs `ladder`"),
        ("[small, large]", "[small, larg]", 19, "policies.careful.options.ladder[1]",
         "did you mean 'large'?"),
        ("[small, large]", "[]", 19, "policies.careful.options.ladder", "names no expert"),
        ("trust", "trsut", 19, "policies.careful.options.trsut", "did you mean 'trust'?"),
        ("0.8", "high", 19, "policies.careful.options.trust", "must be a number"),
        ("[small]", "[smal]", 16, "policies.default.fallback[0]", "did you mean 'small'?"),
        ("    router: ./router\n", "", 14, "policies.default.router", "needs a router"),
        ("./router", "./elsewhere", 15, "policies.default.router", "'./elsewhere' does not exist"),
        ("    fallback", "    price: 1\n    max_cost: 1\n    fallback", 17,
         "policies.default.max_cost", "exclude each other"),
        ("strategy: cascade", "strategy: cascade\n    max_cost: 1", 19, 
         "policies.careful.max_cost", "there is none"),
        ("strategy: cascade", "strategy: cascade\n    price: 1", 19, "policies.careful.price",
         "weighs no price"),
        ("policies:", "default_policy: carefull\npolicies:", 12, "default_policy",
         "did you mean 'careful'?"),
        ("policies:", "server: {port: 70000}\npolicies:", 12, "server.port", "at most 65535"),
        ("policies:", "server: {api_keys: ['']}\npolicies:", 12, "server.api_keys[0]",
         "must not be empty"),
        ("${LARGE_KEY}", "${NO_SUCH_KEY}", 9, "experts[1].api_key",
         "set NO_SUCH_KEY, or `api_key:` in routewright.yaml line 9"),
        ("http://127.0.0.1:9001/v1", "${NO_SUCH_URL}", 4, "experts[0].base_url", "NO_SUCH_URL"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line_and_its_mend(
    file: Path, old: str, new: str, line: int, where: str, says: str
) -> None:
    problem = only(file, old, new)
    assert (problem["level"], problem["line"], problem["where"]) == ("error", line, where)
    assert says in f"{problem['problem']}; {problem['mend']}"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("- name: small\n    base", "- base", "is missing"),
        ("name: small", "name: 7", "must be text"),
        ("name: small", "name: ''", "must not be empty"),
        ("name: small", "name: auto", "is reserved"),
        ("name: small", "name: router-small-0.5", "is reserved"),
        ("name: small", "name: a small one", "HTTP header"),
        ("name: small", "name: small>large", "HTTP header"),
    ],
)
def test_a_name_that_cannot_be_used_is_told_first(
    file: Path, old: str, new: str, says: str
) -> None:
    first, *others = problems(file, GOOD.replace(old, new, 1))
    assert (first["line"], first["where"]) == (3, "experts[0].name")
    assert says in first["problem"]
    assert others  # whoever refers to the expert by its old name


@pytest.mark.parametrize(
    ("old", "new", "where", "says"),
    [
        ("${LARGE_KEY}", SECRET, "experts[1].api_key", "plain text"),
        ("http://127.0.0.1:9001", "https://llm.example.com", "experts[0]", "costs nothing"),
        ("[public, restricted]", "[]", "experts[0].data_classes", "lets nothing reach"),
        ("policies:", "server: {host: 0.0.0.0}\npolicies:", "server.host", "api_keys"),
        (
            "policies:",
            "server: {feedback_answers: true}\npolicies:",
            "server.feedback_answers",
            "`feedback: feedback.jsonl`",
        ),
        ("policies:", "server: {default_data_class: internal}\npolicies:",
         "server.default_data_class", "no expert may see internal"),
    ],
)  # fmt: skip
def test_a_risk_is_a_warning_and_the_file_still_loads(
    file: Path, old: str, new: str, where: str, says: str
) -> None:
    problem = only(file, old, new)
    assert (problem["level"], problem["where"]) == ("warning", where)
    assert says in f"{problem['problem']}; {problem['mend']}"
    assert config.load(file)


def test_a_strategy_may_be_built_from_others(file: Path) -> None:
    parts = "first: {strategy: fixed, expert: small}, second: {strategy: fixed, expert: large}"
    text = GOOD.replace("cascade", "mix").replace("ladder: [small, large], trust: 0.8", parts)
    (problem,) = problems(file, text)
    assert problem["where"] == "policies.careful.options.share"
    assert problems(file, text.replace(parts, f"{parts}, share: 0.3")) == []
    built = build(config.load(file).policies["careful"].spec())
    assert built == Mix(Fixed("small"), Fixed("large"), 0.3)


def test_every_mistake_is_told_at_once(file: Path) -> None:
    text = GOOD.replace("name: large", "name: small").replace("cascade", "cascad")
    text = text.replace("0.9", "-1").replace("base_url", "base_ulr") + "colour: red\n"
    told = [problem["line"] for problem in problems(file, text) if problem["level"] == "error"]
    # The experts on lines 3 and 6 lose their base_url, so they also need an OpenAI key; the
    # second is no longer called large, which the router on line 15 knows.
    assert told == [3, 4, 6, 7, 10, 11, 15, 18, 20]


def test_a_key_given_twice_names_both_lines(file: Path) -> None:
    problem = only(file, "    model:", "    base_url: http://127.0.0.1/v1\n    model:")
    assert (problem["line"], problem["column"]) == (8, 5)
    assert "already on line 7" in problem["problem"]


def test_a_router_trained_on_strangers_is_refused(file: Path) -> None:
    (file.parent / "router" / "router.json").write_text('{"experts": ["small", "huge"]}')
    assert "experts that are not here: huge" in only(file, "0.8", "0.9")["problem"]


def test_a_file_without_policies_is_shown_the_simplest_one(file: Path) -> None:
    head = GOOD[: GOOD.index("policies:")]
    (problem,) = problems(file, head)
    simplest = problem["mend"].split("`")[1]
    assert problems(file, head + simplest) == []


def test_merge_keys_share_settings_and_are_no_duplicates(file: Path) -> None:
    text = GOOD.replace("- name: small", "- &one\n    name: small").replace(
        "- name: large", "- <<: *one\n    name: large"
    )
    assert problems(file, text) == []
    assert config.load(file).experts_by_name()["large"].data_classes == {"public", "restricted"}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("version: 1\nexperts: [a\n", 3, "not YAML"),
        ("version: 1\nx: \x01", 2, "control character"),
        ("", 1, "is empty"),
        ("- one\n", 1, "is not a mapping"),
        ("[" * 3000, None, "nested too deeply"),
        ("a: &a [*a]\n", None, "nested too deeply"),
    ],
)
def test_what_is_not_yaml_is_told_without_a_traceback(
    file: Path, text: str, line: int | None, says: str
) -> None:
    (problem,) = [p for p in problems(file, text) if says in p["problem"]]
    assert problem["line"] == line


def test_a_file_that_is_not_there_is_a_mistake(tmp_path: Path) -> None:
    result = run(tmp_path / "none.yaml")
    assert result.exit_code == 2
    assert "no such file" in result.stdout


@pytest.mark.parametrize("odd", [None, True, -1, 2.5, "", "odd", [], [1], {}, {"a": 1}, [[{}]]])
def test_no_odd_value_anywhere_breaks_the_check(file: Path, odd: object) -> None:
    """Each value of the file in turn becomes something odd: a verdict every time, no exception."""
    for change in _changes(yaml.safe_load(GOOD), odd):
        file.write_text(yaml.safe_dump(change))
        found = config.examine(file)
        assert (found.config is None) == bool(found.mistakes)


def _changes(value: Any, odd: object) -> list[Any]:
    """Copies of a tree, each with one node replaced."""
    changed = [odd]
    if isinstance(value, dict):
        for key, child in value.items():
            changed += [{**value, key: new} for new in _changes(child, odd)]
    elif isinstance(value, list):
        for i, child in enumerate(value):
            changed += [[*value[:i], new, *value[i + 1 :]] for new in _changes(child, odd)]
    return changed


# -- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["${LARGE_KEY}", "os.environ/LARGE_KEY", SECRET])
def test_a_key_reaches_the_expert_but_no_output(file: Path, written: str) -> None:
    file.write_text(GOOD.replace("${LARGE_KEY}", written))
    loaded = config.load(file)
    expert = loaded.experts_by_name()["large"]
    assert expert.api_key == SECRET
    shown = run(file).stdout + run(file, "--json").stdout + repr(loaded) + repr(expert)
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("api_key: ${LARGE_KEY}", f"api_kye: {SECRET}"),
        ("api_key: ${LARGE_KEY}", f"api_key: [{SECRET}]"),
        ("api_key: ${LARGE_KEY}", f'api_key: "{SECRET}'),
        ("api_key: ${LARGE_KEY}", f"api_key: *{SECRET}"),
        ("api_key: ${LARGE_KEY}", f"api_key: !{SECRET}"),
        ("api_key: ${LARGE_KEY}", f"api_key: !a!{SECRET}"),
        ("api_key: ${LARGE_KEY}", f'api_key: "{SECRET} "'),
        ("https://llm", f"https://me:{SECRET}@llm"),
        ("https://llm.example.com/v1", f"https://llm.example.com/v1?key={SECRET}#x"),
        ("https://llm.example.com/v1", "${LARGE_KEY}"),
        ("[small, large]", "[small, '${LARGE_KEY}']"),
        ("policies:", "default_policy: ${LARGE_KEY}\npolicies:"),
    ],
)
def test_no_mistake_betrays_a_secret(file: Path, old: str, new: str) -> None:
    file.write_text(GOOD.replace(old, new))
    with pytest.raises(BadConfig) as raised:
        config.load(file)
    shown = run(file).stdout + run(file, "--json").stdout + str(raised.value)
    assert "mistake" in shown
    assert SECRET not in shown


def test_headers_reach_the_expert_and_no_output(file: Path) -> None:
    headers = f"headers: {{x-token: 'Bearer ${{LARGE_KEY}}', cookie: {SECRET}, user-agent: null}}"
    text = GOOD.replace("api_key: ${LARGE_KEY}", headers)
    (warning,) = problems(file, text)
    assert (warning["level"], warning["where"]) == ("warning", "experts[1].headers.cookie")
    loaded = config.load(file)
    expert = loaded.experts_by_name()["large"]
    own = {"x-token": f"Bearer {SECRET}", "cookie": SECRET, "user-agent": None}
    assert dict(expert.headers) == own
    shown = run(file).stdout + run(file, "--json").stdout + repr(loaded) + repr(expert)
    assert SECRET not in shown


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("'x y': a", "is not the name of a header"),
        ("Content-Length: '3'", "belongs to the connection"),
        ('x-a: "one\\r\\ntwo: 2"', "cannot be sent in an HTTP header"),
        ("x-a: 3", "must be text"),
    ],
)
def test_a_header_that_cannot_be_sent_is_a_mistake(file: Path, header: str, problem: str) -> None:
    text = GOOD.replace("api_key: ${LARGE_KEY}", f"headers: {{{header}}}")
    (mistake,) = problems(file, text)
    assert problem in mistake["problem"]


def test_a_key_in_a_header_is_enough_at_openai(file: Path) -> None:
    entry = "  - name: gpt-4o\n    headers: {Authorization: 'Bearer ${LARGE_KEY}'}\n"
    text = GOOD.replace("experts:\n", f"experts:\n{entry}    input_per_mtok: 2.5\n")
    assert problems(file, text) == []


def test_an_address_may_hold_a_query_which_no_output_shows(file: Path) -> None:
    file.write_text(GOOD.replace("llm.example.com/v1", f"llm.example.com/v1?sig={SECRET}"))
    loaded = config.load(file)
    assert str(loaded.experts[1].base_url).endswith(f"?sig={SECRET}")
    assert SECRET not in run(file).stdout + run(file, "--json").stdout + repr(loaded)


def test_the_openai_key_is_used_at_openai_and_nowhere_else(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = GOOD.replace("experts:\n", "experts:\n  - name: gpt-4o\n    input_per_mtok: 2.5\n")
    (problem,) = problems(file, text)
    assert problem["problem"] == "no key for expert 'gpt-4o'"
    assert problem["mend"] == "set OPENAI_API_KEY, or `api_key:` in routewright.yaml line 3"
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    experts = config.load(file).experts_by_name()
    assert experts["gpt-4o"].base_url == "https://api.openai.com/v1"
    keys = {name: expert.api_key for name, expert in experts.items()}
    assert keys == {"gpt-4o": "sk-openai", "small": None, "large": SECRET}


def test_anthropics_key_is_used_at_anthropic(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    entry = "  - {name: claude-haiku-4-5, provider: anthropic}\n"
    text = GOOD.replace("experts:\n", f"experts:\n{entry}")
    (problem,) = problems(file, text)
    assert problem["mend"] == "set ANTHROPIC_API_KEY, or `api_key:` in routewright.yaml line 3"
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-anthropic")
    expert = config.load(file).experts_by_name()["claude-haiku-4-5"]
    assert (expert.base_url, expert.api_key) == ("https://api.anthropic.com", "sk-anthropic")
    assert expert.input_per_mtok > 0  # of the price list


def test_the_openai_key_reaches_no_deployment_elsewhere(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = """\
  - name: gpt-4o
    input_per_mtok: 2.5
    deployments: [{}, {base_url: https://llm.example.com/v1}, {api_key: "${LARGE_KEY}"}]
"""
    text = GOOD.replace("experts:\n", f"experts:\n{entry}")
    (problem,) = problems(file, text)
    assert (problem["problem"], problem["line"]) == ("no key for expert 'gpt-4o'", 5)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    expert = config.load(file).experts_by_name()["gpt-4o"]
    assert expert.api_key is None
    assert [one.api_key for one in expert.deployments] == ["sk-openai", None, SECRET]


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("deployments: [{base_url: llm.example.com}]", "does not begin with http://"),
        ("deployments: [{weight: 0}]", "must be more than 0"),
        ("deployments: [{wieght: 1}]", "is not a key here"),
        ("deployments: [{headers: {'x y': a}}]", "is not the name of a header"),
        ("deployments: [{name: a}, {name: a}]", "is already the name of another"),
        ("deployments: []", "names no deployment"),
        ("deployments: [{}]\n    launch: {command: serve 1}", "cannot be combined with `launch`"),
        ("max_concurrency: 0", "must be more than 0"),
    ],
)
def test_a_deployment_that_cannot_work_is_told(file: Path, written: str, problem: str) -> None:
    found = problems(file, GOOD.replace("api_key: ${LARGE_KEY}", f"api_key: a-key\n    {written}"))
    assert problem in " ".join(one["problem"] for one in found)


def test_check_shows_every_deployment_and_no_key(file: Path) -> None:
    places = "[{base_url: https://east.example.com/v1}, {base_url: https://west.example.com/v1}]"
    own = f"deployments: {places}\n    api_key: ${{LARGE_KEY}}"
    text = GOOD.replace("base_url: https://llm.example.com/v1\n    ", "")
    file.write_text(text.replace("api_key: ${LARGE_KEY}", own))
    shown = run(file).stdout + repr(config.load(file)) + repr(config.load(file).experts_by_name())
    assert "east.example.com" in shown
    assert "west.example.com" in shown
    assert SECRET not in shown


def test_a_variable_may_fill_part_of_a_text_and_a_number(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST", "127.0.0.1")
    monkeypatch.setenv("PORT", "4999")
    server = "server: {host: '${HOST}', port: '${PORT}'}\n"
    file.write_text(GOOD.replace("127.0.0.1:", "${HOST}:") + server)
    loaded = config.load(file)
    assert loaded.server.port == 4999
    assert loaded.experts[0].base_url == "http://127.0.0.1:9001/v1"


def test_a_mistake_is_told_under_one_prefix(file: Path, routewright) -> None:
    file.write_text(GOOD.replace("trust", "trsut"))
    code, _, told = routewright("evaluate", file, "t.parquet")
    assert code == 2
    assert told.startswith(f"{file}:19:39: error: policies.careful.options.trsut")


def test_load_tells_every_mistake_in_one_message(file: Path) -> None:
    file.write_text(GOOD.replace("trust", "trsut").replace("- name: small", "- name: 7"))
    with pytest.raises(BadConfig) as raised:
        config.load(file)
    assert f"{file}:3:11: error: experts[0].name (7)" in str(raised.value)
    assert f"{file}:19:39: error: policies.careful.options.trsut" in str(raised.value)


# -- the docs ----------------------------------------------------------------------------------


def test_the_committed_schema_is_in_sync() -> None:
    committed = (DOCS / "routewright.schema.json").read_text(encoding="utf-8")
    assert json.loads(committed) == config.json_schema()


def test_capabilities_and_data_classes_are_those_of_the_nouns() -> None:
    properties = config.json_schema()["$defs"]["ExpertConfig"]["properties"]
    choices, _ = properties["capabilities"]["anyOf"]
    assert set(choices["items"]["enum"]) == EVERYTHING | set(BUILT_IN_TOOLS)
    assert properties["data_classes"]["items"]["enum"] == list(DATA_CLASSES)


def test_the_reference_describes_every_key() -> None:
    reference = (DOCS / "config.md").read_text(encoding="utf-8")
    sections = (
        config.Config,
        config.ExpertConfig,
        config.DeploymentConfig,
        config.WindowConfig,
        config.LaunchConfig,
        config.PolicyConfig,
        config.ServerConfig,
        config.RecordsConfig,
        config.ResponsesConfig,
    )
    for section in sections:
        for key, field in section.model_fields.items():
            (row,) = [
                row for row in _rows(reference, key) if row.endswith(f"{field.description} |")
            ]
            assert f"| {_default(field)} |" in row


def _rows(reference: str, key: str) -> list[str]:
    return [line for line in reference.splitlines() if line.startswith(f"| `{key}` |")]


def _default(field: Any) -> str:
    if field.is_required():
        return "**required**"
    if field.default is None:
        return "–"
    if isinstance(field.default, frozenset):
        return f"`[{', '.join(field.default)}]`"
    if isinstance(
        field.default, config.ServerConfig | config.RecordsConfig | config.ResponsesConfig
    ):
        return "`{}`"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"  # as YAML writes it
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def test_the_full_example_of_the_reference_is_a_good_config(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "ROUTEWRIGHT_KEY"):
        monkeypatch.setenv(name, SECRET)
    assert problems(file, _block("```yaml\n")) == []


def test_the_reference_shows_what_check_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mistaken.yaml").write_text(_block("```yaml mistaken.yaml\n"))
    shown = _block("```console\n$ routewright check mistaken.yaml\n")
    assert run(Path("mistaken.yaml")).stdout == shown


def _block(start: str) -> str:
    reference = (DOCS / "config.md").read_text(encoding="utf-8")
    found = re.search(re.escape(start) + "(.*?)```", reference, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.mark.parametrize("command", ["check", "serve"])
def test_the_config_of_this_folder_is_taken_where_none_is_named(
    routewright, tmp_path, monkeypatch, command
):
    monkeypatch.chdir(tmp_path)
    code, shown, error = routewright(command)
    assert code == 2
    assert "routewright.yaml" in shown + error
    assert "`routewright init` writes one" in shown + error


def test_check_shows_the_ports_of_two_servers_in_80_columns(routewright, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    experts = "\n".join(
        f"  - {{name: {name}-chat, base_url: 'http://127.0.0.1:{port}/v1',"
        " data_classes: [public, internal, restricted]}"
        for name, port in (("small", 18431), ("large", 18432))
    )
    policy = "policies:\n  default: {strategy: fixed, options: {expert: small-chat}}\n"
    Path("routewright.yaml").write_text(f"version: 1\nexperts:\n{experts}\n{policy}")
    code, shown, _ = routewright("check")
    assert code == 0
    cells = [line.split("│")[2].strip() for line in shown.splitlines() if line.count("│") == 5]
    assert "".join(cells).startswith("http://127.0.0.1:18431/v1http://127.0.0.1:18432/v1")
