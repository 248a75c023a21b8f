"""Families of plug-ins: one builder, one kind of message, and members of other packages."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import polars as pl
import pytest
import yaml

from routewright import registry
from routewright.data import outcomes
from routewright.errors import BadInput
from routewright.registry import FAMILIES, build, names, options, settings
from routewright.strategies.fixed import Fixed
from routewright.strategies.mix import Mix
from tables import table, write
from test_gateway import create
from upstream import config_of, front


@pytest.mark.parametrize("family", FAMILIES)
def test_a_misspelt_name_is_told_with_those_that_exist(family):
    first = names(family)[0]
    with pytest.raises(BadInput) as raised:
        build(family, f"{first}x")
    told = str(raised.value)
    assert told.startswith(f"no {FAMILIES[family].noun} is called '{first}x': did you mean '")
    assert all(name in told for name in names(family))


@pytest.mark.parametrize(
    ("family", "member", "unknown"),
    [
        ("strategies", {"strategy": "cascade", "ladder": ["a"], "trsut": 1}, "trust"),
        ("predictors", {"predictor": "knn", "widht": 9}, "width"),
        ("encoders", {"encoder": "lexical", "widht": 9}, "width"),
        ("graders", {"grader": "numeric", "tolernce": 0.1}, "tolerance"),
        ("rewards", {"reward": "classifier", "model": "x", "bach": 1}, "batch"),
        ("providers", {"provider": "openai", "conect": 1}, "connect"),
    ],
)
def test_an_option_that_does_not_exist_is_told_with_those_that_do(family, member, unknown):
    *_, typed = member
    with pytest.raises(BadInput) as raised:
        build(family, member)
    told = str(raised.value)
    assert f"has no option {typed}: did you mean '{unknown}'? Choose one of " in told
    cls = registry.find(family, next(iter(member.values())))
    assert told.endswith(", ".join(options(cls)))


@pytest.mark.parametrize(
    ("family", "member", "told"),
    [
        ("strategies", {"strategy": "fixed"}, "strategy 'fixed' needs the option expert"),
        ("strategies", {"strategy": "fixed", "expert": 3},
         "option expert of strategy 'fixed' must be text, not 3"),
        ("strategies", {"strategy": "cascade", "ladder": ["a", 3]},
         "option ladder[1] of strategy 'cascade' must be text, not 3"),
        ("strategies", {"strategy": "single"}, "strategy 'single' needs a router"),
        ("strategies", {"strategy": "frugal", "trust": "much"},
         "option trust of strategy 'frugal' must be a number or a list, not 'much'"),
        ("strategies", {"strategy": "mix", "first": "a", "share": 1},
         "option first of strategy 'mix' must be a strategy, not 'a': write {strategy: NAME}"),
        ("strategies", {"rungs": ["a"]}, "a strategy needs a name: write it under `strategy`"),
        ("predictors", {"predictor": "knn", "k": "many"},
         "option k of predictor 'knn' must be a whole number, not 'many'"),
        ("predictors", {"predictor": "trees", "leaf": 0},
         "option leaf of predictor 'trees' must be more than 0, not 0"),
        ("predictors", {"predictor": "linear", "domain": "inf"},
         "option domain of predictor 'linear' must be a finite number, not 'inf'"),
        ("predictors", {"predictor": "transformer", "head": "linear"},
         "option head of predictor 'transformer' must be 'bilinear', 'rasch' or 'mlp', not"),
        ("encoders", {"encoder": "static"}, "encoder 'static' needs the option source"),
        ("graders", {"grader": "majority", "kind": "vote"},
         "option kind of grader 'majority' must be 'auto', 'letter', 'number'"),
        ("providers", {"provider": "openai", "connect": "soon"},
         "option connect of provider 'openai' must be a number, not 'soon'"),
    ],
)  # fmt: skip
def test_an_option_that_is_missing_or_does_not_fit_is_told(family, member, told):
    with pytest.raises(BadInput) as raised:
        build(family, member)
    assert str(raised.value).startswith(told)


@pytest.mark.parametrize(
    ("family", "spec", "told"),
    [
        ("encoders", "static", "encoder 'static' needs source: write static=SOURCE ("),
        ("encoders", "surface=3", "encoder 'surface' takes nothing after '=': write surface, not"),
        ("encoders", "lexical=x", "option width of encoder 'lexical' must be a whole number, not"),
        ("graders", "judge", "grader 'judge' needs expert: write judge=EXPERT ("),
        ("graders", "exact=strictly", "grader 'exact' takes nothing after '=': write exact, not"),
        (
            "graders",
            "numeric=1",
            "option tolerance of grader 'numeric' must be less than 1, not '1'",
        ),
        ("rewards", "function", "reward model 'function' needs path: write function=PATH ("),
        ("rewards", "recorded=x", "reward model 'recorded' takes nothing after '='"),
        ("providers", "sandbox=3", "provider 'sandbox' takes nothing after '='"),
    ],
)
def test_an_argument_that_is_missing_or_not_taken_is_told(family, spec, told):
    with pytest.raises(BadInput) as raised:
        build(family, spec)
    assert str(raised.value).startswith(told)


def test_values_arrive_in_the_types_of_the_options():
    mix = {"strategy": "mix", "first": {"strategy": "fixed", "expert": "a"}, "second": Fixed("b")}
    assert build("strategies", {**mix, "share": "0.3"}) == Mix(Fixed("a"), Fixed("b"), 0.3)
    knn = build("predictors", {"predictor": "knn", "k": "9", "domain": "none"})
    assert (knn.k, knn.domain) == (9, None)
    assert settings(knn) == {"k": 9, "domain": None, "surface": 0.02, "width": 128}
    assert build("predictors", {"predictor": "zooter", "tags": "none"}).tags == "none"


def test_what_no_text_can_say_is_given_beside_the_options_or_among_them(router):
    beside = build("strategies", {"strategy": "single", "price": 2}, router=router)
    assert beside == build("strategies", {"strategy": "single", "price": 2, "router": router})
    assert (beside.router, beside.price) == (router, 2.0)
    assert build("strategies", "fixed=a", router=router) == Fixed("a")


def test_the_length_of_lexical_vectors_is_its_argument(outcome_table):
    rows = outcomes.read(outcome_table, split="train")
    x = build("encoders", "lexical=7").fit(rows.queries).encode(rows.queries)
    assert x.shape == (len(rows), 7)


def test_a_list_of_members_loads_no_array_library():
    script = (
        "import sys; from routewright.registry import FAMILIES, names;"
        "print([len(names(family)) for family in FAMILIES]); print('numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[1] == "False"


# --- members of other packages ---------------------------------------------------------------

PLUGGED = '''
"""One member of each family, under names that are not those of their classes."""

from dataclasses import dataclass, field

import numpy as np

from routewright.grading.graders import Grade
from routewright.metrics import mean
from routewright.prediction.predictors import Belief
from routewright.types import Answer, Ask, Decision, Delta


@dataclass(frozen=True)
class Always:
    expert: str

    def plan(self, query):
        answer = yield Ask(self.expert, final=True)
        return Decision(answer, because="the plug-in says so")


@dataclass
class Flat:
    level: float = 0.5
    mean: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)

    def fit(self, x, scores, *, blocks, seed=0):
        self.mean = mean(scores)
        return self

    def predict(self, x):
        mean = np.tile(np.where(np.isfinite(self.mean), self.level, np.nan), (len(x), 1))
        return Belief(mean, 0 * mean)

    def options(self):
        return {"level": self.level}

    def arrays(self):
        return {"mean": self.mean}

    @classmethod
    def load(cls, options, arrays):
        return cls(options["level"], arrays["mean"])


class Length:
    blocks = {"length": slice(0, 1)}

    def fit(self, queries, *, seed=0):
        return self

    def encode(self, queries):
        return np.array([[float(len(query.text))] for query in queries]).reshape(-1, 1)

    def options(self):
        return {}

    def arrays(self):
        return {}

    @classmethod
    def load(cls, options, arrays):
        return cls()


class Polite:
    by_name_only = False

    def __init__(self, word: str):
        self.word = word

    def grade(self, item, answer):
        return Grade(float(self.word in answer))


class Brevity:
    def rate(self, pairs):
        return np.array([-float(len(answer)) for _, answer in pairs])


class Parrot:
    verify_prompt = None
    takes_n = False

    async def ask(self, call):
        text = "please: " + call.body["messages"][-1]["content"]
        return Answer(call.expert.name, text, message={"role": "assistant", "content": text})

    async def stream(self, call):
        answer = await self.ask(call)
        yield Delta(call.expert.name, answer.text, {"content": answer.text})
        yield answer

    async def close(self):
        pass
'''
MEMBERS = {
    "strategies": "insist = plugged:Always",
    "predictors": "level = plugged:Flat",
    "encoders": "characters = plugged:Length",
    "graders": "manners = plugged:Polite",
    "rewards": "short = plugged:Brevity",
    "providers": "parrot = plugged:Parrot",
}


@pytest.fixture
def plugged(tmp_path, monkeypatch):
    """A distribution, as pip would have installed it, with a member of each family."""
    (tmp_path / "site" / "plugged-1.0.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "plugged.py").write_text(PLUGGED)
    facts = tmp_path / "site" / "plugged-1.0.dist-info"
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: plugged\nVersion: 1.0\n")
    groups = (f"[routewright.{family}]\n{point}\n" for family, point in MEMBERS.items())
    (facts / "entry_points.txt").write_text("\n".join(groups))
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    caches = (registry._plugins, registry.names, registry.find)
    for cache in caches:
        cache.cache_clear()
    yield tmp_path
    for cache in caches:
        cache.cache_clear()
    sys.modules.pop("plugged", None)


def test_a_plugged_in_strategy_and_provider_are_served(plugged, routewright):
    experts = [{"name": name, "provider": "parrot"} for name in ("polly", "coco")]
    policies = {"mine": {"strategy": "insist", "options": {"expert": "coco"}}}
    config = {"version": 1, "experts": experts, "policies": policies}
    (plugged / "routewright.yaml").write_text(yaml.safe_dump(config))
    assert routewright("check", "routewright.yaml")[0] == 0

    async def work():
        async with front(config_of(*experts, policies=policies)) as client:
            return await create()(client)

    reply = asyncio.run(work())
    assert (reply.model, reply.choices[0].message.content[:8]) == ("coco", "please: ")
    policies["mine"]["options"] = {"exprt": "coco"}
    (plugged / "routewright.yaml").write_text(yaml.safe_dump(config))
    code, out, _ = routewright("check", "routewright.yaml")
    assert code == 2
    assert "did you mean 'expert'" in " ".join(out.split())


def test_a_plugged_in_predictor_and_encoder_are_fitted_and_loaded(plugged, routewright):
    rows, words = write(plugged, table(120)), ("--predictor", "level", "--encoder", "characters")
    code, out, _ = routewright(
        "fit", rows, "--out", "R", *words, "--option", "level=0.25", "--json"
    )
    assert code == 0
    told = json.loads(out)
    assert told["predictor"] == {"name": "level", "options": {"level": 0.25}}
    assert told["encoder"]["name"] == "characters"
    assert routewright("evaluate", "R", rows, "--json", "e.json")[0] == 0
    code, _, error = routewright("fit", rows, "--out", "R", *words, "--option", "level=high")
    assert code == 2
    assert "option level of predictor 'level' must be a number, not 'high'" in error


def test_a_plugged_in_grader_and_reward_model_are_asked(plugged, routewright):
    config = {"version": 1, "experts": [{"name": "polly", "provider": "parrot"}]}
    config["policies"] = {"mine": {"strategy": "insist", "options": {"expert": "polly"}}}
    (plugged / "routewright.yaml").write_text(yaml.safe_dump(config))
    queries = ({"id": f"q{i}", "prompt": f"What is {i}?", "reference": str(i)} for i in range(3))
    (plugged / "q.jsonl").write_text("\n".join(map(json.dumps, queries)))
    words = ("interview", "routewright.yaml", "q.jsonl", "--out", "o.parquet")
    code, _, error = routewright(*words, "--grader", "manners")
    assert code == 2
    assert "grader 'manners' needs word: write manners=WORD" in error
    assert routewright(*words, "--grader", "manners=please")[0] == 0
    assert routewright("reward", "o.parquet", "--model", "short", "--out", "r.parquet")[0] == 0
    rated = pl.read_parquet("r.parquet")
    assert rated["score::polly"].to_list() == [1, 1, 1]
    assert rated["reward::polly"].to_list() == [-len("please: What is 0?")] * 3


def test_a_plug_in_that_cannot_be_imported_says_so(plugged):
    (plugged / "site" / "plugged.py").write_text("import a_package_that_is_not_here")
    told = "strategy 'insist' cannot be loaded from plugged:Always: No module named"
    with pytest.raises(BadInput, match=told):
        build("strategies", "insist=a")
