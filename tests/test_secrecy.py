"""No text of a row reaches an expert that may not see it, whichever command asks.

All commands are found by walking the command line. Each that may ask runs with every expert in
every role, on rows of several data classes and regions. The experts are real servers that repeat
the marks of what they read, so that answers and newly written queries are recognised too.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest
import typer
import yaml

from routewright.cli.main import app
from routewright.data import outcomes, queries
from routewright.data.outcomes import Outcomes
from routewright.errors import BadInput, BadTable
from routewright.experts.limits import quotation
from routewright.interview import selfplay
from routewright.router.router import Router
from routewright.types import DATA_CLASSES, DataClass, Query
from test_interview import serving
from upstream import Upstream, config_of, front

MARK = re.compile(r"ZEBRA\w+|PLAIN")
KINDS = {  # the mark of a row's text ▶ its limits; a row of the last kind states no data class
    "PLAIN": {"data_class": "public"},
    "ZEBRARESTRICTED": {"data_class": "restricted"},
    "ZEBRAEU": {"data_class": "public", "region": "eu"},
    "ZEBRAUNKNOWN": {},
}
EXPERTS = {  # with the marks that each may read; `server.default_data_class` is internal
    "near": (
        {"data_classes": ["public", "internal", "restricted"], "region": "eu"},
        {"PLAIN", "ZEBRARESTRICTED", "ZEBRAEU", "ZEBRAUNKNOWN"},
    ),
    "far": ({}, {"PLAIN"}),
    "abroad": (
        {"data_classes": ["public", "internal", "restricted"], "region": "us"},
        {"PLAIN", "ZEBRARESTRICTED", "ZEBRAUNKNOWN"},
    ),
}


def says() -> Callable[[dict], str]:
    """An expert that writes queries, tags, ratings and answers, with the marks of what it read."""
    number = itertools.count()

    def reply(body: dict) -> str:
        prompt = body["messages"][-1]["content"]
        marks = " ".join(sorted(set(MARK.findall(prompt))))
        if "JSON array" in prompt:
            new = (f"{marks} {_words(next(number))}" for _ in range(10))
            return json.dumps(list(new))
        if "JSON list" in prompt:
            return '["topic", "other topic"]'
        if "Rating: N" in prompt:
            return "Rating: 7"
        return "Better: 1" if "Better: 1" in prompt else f"{marks} {_words(next(number))}"

    return reply


def _words(number: int) -> str:
    """A text that no near-duplicate has."""
    return " ".join(f"{place}{number * 7919 % 997}{place}" for place in "abcdefgh")


@dataclass
class Place:
    """A folder with rows of every kind, a config, and a router that was fitted on the rows."""

    folder: Path
    upstreams: dict[str, Upstream] = field(default_factory=dict)

    @property
    def config(self) -> Path:
        return self.folder / "routewright.yaml"

    @property
    def table(self) -> Path:
        return self.folder / "table.parquet"

    @property
    def set(self) -> Path:
        return self.folder / "set.jsonl"

    @property
    def router(self) -> Path:
        return self.folder / "router"

    def write(self) -> None:
        self.set.write_text("\n".join(json.dumps(row) for row in rows()) + "\n")
        answered = [
            {
                **dict.fromkeys(("data_class", "region")),
                **row,
                **{f"score::{name}": float((n + m) % 3 > 0) for m, name in enumerate(EXPERTS)},
                **{f"cost::{name}": 1e-6 * 10**m for m, name in enumerate(EXPERTS)},
                **{f"answer::{name}": f"{row['prompt']} {name}" for name in EXPERTS},
            }
            for n, row in enumerate(rows())
        ]
        pl.DataFrame(answered, infer_schema_length=None).write_parquet(self.table)
        experts = [
            self.upstreams[name].expert(name, retries=0, **traits)
            for name, (traits, _) in EXPERTS.items()
        ]
        policies = {"default": {"strategy": "fixed", "options": {"expert": "near"}}}
        config = {"version": 1, "experts": experts, "policies": policies}
        config["server"] = {"default_data_class": "internal"}
        self.config.write_text(yaml.safe_dump(config))

    def forget(self) -> None:
        for upstream in self.upstreams.values():
            upstream.bodies.clear()


def rows() -> list[dict[str, object]]:
    return [
        {
            "id": f"{mark}-{n}",
            "prompt": f"{mark} {_words(1000 * k + n)}",
            "reference": "a right answer",
            "split": "train",
            **limits,
        }
        for k, (mark, limits) in enumerate(KINDS.items())
        for n in range(10)
    ]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("place"), {name: Upstream(says()) for name in EXPERTS})
    with serving(*place.upstreams.values()):
        place.write()
        fit = ["fit", place.table, "--out", place.router, "--strategy", "single"]
        typer.main.get_command(app)(
            list(map(str, [*fit, "--encoder", "surface"])), standalone_mode=False
        )
        yield place


@pytest.fixture
def place(served: Place) -> Place:
    served.forget()
    return served


def leaks(place: Place) -> list[str]:
    """Every expert that read what it may not see, with the marks of that."""
    return [
        f"{name} read {sorted(marks)}"
        for name, (_, permitted) in EXPERTS.items()
        if (marks := set(MARK.findall(json.dumps(place.upstreams[name].bodies))) - permitted)
    ]


def stricter(*classes: DataClass) -> DataClass:
    return max(classes, key=DATA_CLASSES.index)


def losses(folder: Path) -> list[str]:
    """Every row in a file that a command wrote which lacks the limits of what it was made from."""
    files = [p for p in folder.rglob("*") if p.suffix in (".jsonl", ".parquet", ".csv")]
    found = []
    for path in files:
        try:
            items = queries.read(path, data_class="internal")
        except BadTable:
            continue  # a journal
        for item in items:
            query = item.query
            for mark in set(MARK.findall(query.full_text)):
                limits = {"data_class": "internal", **KINDS[mark]}
                if stricter(query.data_class, limits["data_class"]) != query.data_class:
                    found.append(f"{path.name}: {query.data_class} {query.full_text}")
                if query.region != limits.get("region"):
                    found.append(f"{path.name}: {query.region} {query.full_text}")
    return found


# --- every command -------------------------------------------------------------------------

Words = Callable[[Place, Path, str], list[object]]  # the place, a folder for output, an expert


def _interview(*options: str) -> Words:
    return lambda place, out, role: [
        *("interview", place.config, place.set, "--out", out / "t.parquet"),
        *(option.replace("ROLE", role) for option in options),
    ]


def _selfplay(*options: str) -> Words:
    return lambda place, out, role: [
        *("selfplay", place.config, place.router, "--out", out / "play", "--strategy", "single"),
        *("--rounds", 1, "--queries", 12, "--candidates", 2, "--overlap-cosine", 2),
        *(option.replace("ROLE", role) for option in options),
    ]


ASKS: dict[str, list[Words]] = {  # commands that ask experts, or could
    "interview": [
        _interview("--grader", "judge=ROLE", "--verify", "1", "--samples", "1", "--logprobs"),
        _interview("--grader", "pairwise=ROLE", "--only", "near"),
        _interview("--only", "ROLE"),
        _interview("--dry-run"),
    ],
    "selfplay": [
        _selfplay("--generator", "ROLE", "--grader", "majority"),
        _selfplay("--generator", "near", "--grader", "judge=ROLE"),
        _selfplay("--generator", "near", "--grader", "pairwise=ROLE"),
    ],
    "tag": [
        lambda p, out, role: [
            *("tag", p.table, "--out", out / "t.parquet", "--expert", role, "--config", p.config)
        ],
        lambda p, out, role: ["tag", p.set, "--out", out / "t.jsonl", "--clusters", 3],
    ],
    "reward": [
        lambda p, out, role, kind=kind: [
            *("reward", p.table, "--out", out / "t.parquet", "--config", p.config),
            *("--model", f"{kind}={role}"),
        ]
        for kind in ("judge", "pairwise")
    ],
    "diversify": [lambda p, out, role: ["diversify", p.table, "--out", out / "t.jsonl"]],
    "add-expert": [
        lambda p, out, role: [
            *("add-expert", p.router, p.table, "--expert", "new", "--split", "all"),
            *("--choose", out / "next.jsonl", "--n", 20),
        ]
    ],
    "dedicate build": [
        lambda p, out, role: [
            *("dedicate", "build", p.table, "--expert", role, "--out", out / "lessons.jsonl")
        ]
    ],
    "evaluate": [
        lambda p, out, role: ["evaluate", p.config, p.table, "--split", "all"],
        lambda p, out, role: [
            *("evaluate", p.router, p.table, "--split", "all", "--html", out / "report.html")
        ],
    ],
    "compare": [
        lambda p, out, role: [
            *("compare", p.config, p.router, p.table, "--split", "all", "--html", out / "c.html")
        ],
    ],
    "fit": [
        lambda p, out, role: [
            *("fit", p.table, "--out", out / "router", "--strategy", "auto"),
            *("--encoder", "surface"),
        ]
    ],
    "check": [lambda p, out, role: ["check", p.config]],
    "route": [lambda p, out, role: ["route", p.router, "ZEBRARESTRICTED?"]],
}
# Commands that ask nobody, because they have no config and so know no expert, ...
NO_CONFIG = {
    *("calibrate", "card", "convert", "demo", "pull", "push", "regrade", "select"),
    *("dedicate train", "dedicate grow", "dedicate calibrate"),
}
# ... or that send only what a client or the user sends (test_gateway_privacy.py, test_chat.py),
# ask a question of their own, write a config, or start a process.
STORE = {  # these read a config, and ask nobody: they work on its store
    *(f"db {verb}" for verb in ("check", "prune", "upgrade")),
    *(f"keys {verb}" for verb in ("budget", "change", "create", "list", "revoke", "rotate")),
    *("decisions", "export", "spend"),
}
OTHERS = {"serve", "dedicate serve", "experts", "chat", "doctor", "init", "prices"}


def walk(command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, object]]:
    """Every command by its words."""
    if not hasattr(command, "commands"):
        yield " ".join(path), command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, (*path, name))


COMMANDS = dict(walk(typer.main.get_command(app)))


def test_every_command_is_known_here():
    """A new command has to say here how it asks, or why it asks nobody."""
    assert sorted(COMMANDS) == sorted([*ASKS, *NO_CONFIG, *STORE, *OTHERS])
    for name in NO_CONFIG:
        parameters = {parameter.name for parameter in COMMANDS[name].params}
        assert parameters.isdisjoint({"config", "router_or_config"}), f"{name} may ask experts"


CASES = [
    (name, words, role)
    for name, runs in ASKS.items()
    for words in runs
    for role in EXPERTS
    if role == "far" or name in ("interview", "selfplay", "tag", "reward")
]


@pytest.mark.parametrize(("name", "words", "role"), CASES)
def test_no_expert_reads_what_it_may_not_see(
    name: str, words: Words, role: str, place: Place, routewright, tmp_path: Path
):
    command = words(place, tmp_path, role)
    code, _, err = routewright(*command)
    assert leaks(place) == [], f"exit {code}: {err}"
    assert losses(tmp_path) == []
    assert code in (0, 2), err
    assert "Traceback" not in err
    if name in ("interview", "selfplay", "tag", "reward") and code == 0:
        is_silent = role == "near" or not any(role in str(word) for word in command)
        assert is_silent or f"'{role}' is not sent" in err, "it says what the expert is not sent"


@pytest.mark.parametrize(
    ("words", "mark"),
    [
        (ASKS["tag"][0], "PLAIN"),
        (ASKS["reward"][0], "PLAIN"),
        (ASKS["interview"][2], "PLAIN"),
        (ASKS["selfplay"][0], "PLAIN"),
    ],
)
def test_what_an_expert_may_see_it_is_sent(words, mark, place, routewright, tmp_path):
    """The commands above leak nothing, and not because they ask nothing."""
    code, _, err = routewright(*words(place, tmp_path, "far"))
    assert code == 0, err
    assert mark in json.dumps(place.upstreams["far"].bodies)


@pytest.mark.parametrize("name", ["interview", "selfplay", "tag", "reward"])
@pytest.mark.parametrize(("role", "hidden"), [("far", "ZEBRARESTRICTED"), ("abroad", "ZEBRAEU")])
def test_rows_that_the_expert_may_not_see_at_all_are_refused_before_any_work(
    name: str, role: str, hidden: str, place: Place, routewright, tmp_path: Path
):
    secret = Place(tmp_path, place.upstreams)
    only = [row for row in rows() if row["id"].startswith(hidden)]
    secret.set.write_text("\n".join(map(json.dumps, only)) + "\n")
    outcomes.save(
        pl.read_parquet(place.table).filter(pl.col("id").str.starts_with(hidden)), secret.table
    )
    secret.config.write_text(place.config.read_text())
    words = ASKS[name][2 if name == "interview" else 0](secret, tmp_path, role)
    words = [place.router if word == secret.router else word for word in words]
    options = ["--table", secret.table] if name == "selfplay" else []
    code, _, err = routewright(*words, *options)
    assert code == 2
    assert re.search(rf"'{role}' is not sent 10 of 10 queries: it (serves|runs)", err), err
    assert not any(upstream.requests for upstream in place.upstreams.values())


def test_a_judge_that_may_see_none_of_the_answers_is_refused_before_they_are_paid_for(
    place: Place, routewright, tmp_path: Path
):
    secret = tmp_path / "q.jsonl"
    secret.write_text('{"prompt": "ZEBRARESTRICTED", "data_class": "restricted"}\n')
    words = ["interview", place.config, secret, "--out", tmp_path / "t.parquet"]
    code, _, err = routewright(*words, "--only", "near", "--grader", "judge=far")
    assert (code, place.upstreams["near"].requests) == (2, 0)
    assert "'far' is not sent 1 of 1 queries: it serves data class public, not restricted" in err
    code, _, err = routewright(*words, "--only", "near", "--grader", "judge=nobody")
    assert (code, place.upstreams["near"].requests) == (2, 0)
    assert "no expert 'nobody'" in err


# --- what is quoted, joined or written for later -------------------------------------------


def test_a_prompt_has_the_strictest_limits_of_what_it_quotes():
    sources = [
        Query.of("a"),
        Query.of("b", data_class="restricted"),
        Query.of("c", data_class="internal", region="eu"),
    ]
    quoted = quotation("a b c", sources)
    assert (quoted.data_class, quoted.region) == ("restricted", "eu")
    with pytest.raises(BadInput, match="regions eu and us"):
        quotation("all", [*sources, Query.of("d", region="us")])


def test_examples_of_one_prompt_share_their_limits(place: Place):
    """So that public rows still give public queries where a table has others too."""
    router = Router.load(place.router)
    known = outcomes.read(place.table, data_class="internal").queries
    aims = selfplay.targets(router, known, 40, seed=1)
    limits = [{(query.data_class, query.region) for query in aim.examples} for aim in aims]
    assert {len(one) for one in limits} == {1}
    assert len(set.union(*limits)) == len(KINDS)


def test_the_strictest_of_several_rows_about_one_query_counts(tmp_path: Path):
    long = [
        {"id": "a", "prompt": "x", "expert": "one", "score": 1, "data_class": "public"},
        {"id": "a", "prompt": "x", "expert": "two", "score": 0, "data_class": "restricted"},
        {"id": "a", "prompt": "x", "expert": "three", "score": 0, "region": "eu"},
    ]
    (tmp_path / "long.jsonl").write_text("\n".join(map(json.dumps, long)))
    wide = {"id": "a", "prompt": "x", "score::four": 1.0, "data_class": "internal"}
    (tmp_path / "wide.jsonl").write_text(json.dumps(wide))
    paths = [tmp_path / "wide.jsonl", tmp_path / "long.jsonl"]
    for order in (paths, paths[::-1]):
        (query,) = outcomes.read(order).queries
        assert (query.data_class, query.region) == ("restricted", "eu")
        (item,) = queries.recorded(order).values()
        assert (item.query.data_class, item.query.region) == ("restricted", "eu")


@pytest.mark.parametrize("form", ["long", "joined"])
def test_rows_of_one_query_in_two_regions_are_refused(form: str, tmp_path: Path):
    cells = {"id": "a", "prompt": "x", "score": 1}
    lines = [{**cells, "expert": name, "region": name} for name in ("eu", "us")]
    files = [lines] if form == "long" else [[line] for line in lines]
    paths = [tmp_path / f"{n}.jsonl" for n in range(len(files))]
    for path, some in zip(paths, files, strict=True):
        path.write_text("\n".join(map(json.dumps, some)))
    with pytest.raises(BadTable, match="region"):
        outcomes.read(paths)
    with pytest.raises(BadTable, match="region"):
        queries.recorded(paths)


def test_a_public_row_stays_public_where_rows_are_internal_by_default(
    place: Place, routewright, tmp_path: Path
):
    """The table of an interview says so, and the next command reads it as it was."""
    out = tmp_path / "t.parquet"
    code, _, err = routewright("interview", place.config, place.set, "--out", out, "--only", "near")
    assert code == 0, err
    classes = dict(pl.read_parquet(out).select("id", "data_class").iter_rows())
    assert classes["PLAIN-0"] == "public"
    assert classes["ZEBRAUNKNOWN-0"] == "internal"


def test_a_router_quotes_none_of_its_rows(place: Place):
    """Neither a strategy nor a verification sends an expert more than the client's own query."""
    experts = [
        place.upstreams[name].expert(name, data_classes=["public"]) for name in ("far", "abroad")
    ]
    experts.append(place.upstreams["near"].expert("near"))
    policies = {
        "auto": {"strategy": "auto", "router": str(place.router)},
        "single": {"strategy": "single", "router": str(place.router)},
        "cascade": {"strategy": "cascade", "options": {"ladder": ["far", "near"]}},
    }

    async def ask() -> None:
        async with front(config_of(*experts, policies=policies)) as client:
            for policy in policies:
                message = {"role": "user", "content": f"PLAIN {_words(7)}"}
                await client.chat.completions.create(model=policy, messages=[message])

    asyncio.run(ask())
    sent = json.dumps([upstream.bodies for upstream in place.upstreams.values()])
    assert set(MARK.findall(sent)) == {"PLAIN"}


def test_outcomes_read_with_a_default_class(place: Place):
    table: Outcomes = outcomes.read(place.table, data_class="restricted")
    classes = {query.id: query.data_class for query in table.queries}
    assert classes["ZEBRAUNKNOWN-0"] == "restricted"
    assert classes["PLAIN-0"] == "public"
