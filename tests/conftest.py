"""What several test files share: a fitted router, and where the real tables lie."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# What tests multiply is small, and tests run side by side: more threads would only wait. Libraries
# read it when they are imported, so it stands before them.
os.environ.setdefault("OMP_NUM_THREADS", "1")


import postgres as postgresql
from routewright.cli.main import run
from routewright.data import outcomes
from routewright.fitting.fit import fit
from routewright.router.router import Router
from tables import table, write

# `make test` tries the same examples every time. `make fuzz` tries others, and many more.
COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
settings.register_profile("test", derandomize=True, database=None, max_examples=50, **COMMON)
settings.register_profile("fuzz", database=None, max_examples=500, **COMMON)
settings.load_profile("test")

REAL = Path(__file__).parent.parent.parent / "shared" / "data"


@pytest.fixture(scope="session")
def outcome_table(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("table"), table())


@pytest.fixture(scope="session")
def router_folder(tmp_path_factory, outcome_table) -> Path:
    folder = tmp_path_factory.mktemp("router") / "router"
    rows = outcomes.read(outcome_table, split="train")
    fit(rows, encoder="lexical+surface+domain").save(folder)
    return folder


@pytest.fixture(scope="session")
def router(router_folder) -> Router:
    return Router.load(router_folder)


@pytest.fixture
def real_table():
    """The path of a real outcome table, or a skip that says why."""

    def find(name: str) -> Path:
        path = REAL / f"{name}.parquet"
        if not path.exists():
            pytest.skip(f"the real outcome table {path} is not here")
        return path

    return find


@pytest.fixture
def routewright(monkeypatch, capsys):
    """Runs a command line; returns its exit code and what it printed."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["routewright", *map(str, words)])
        with pytest.raises(SystemExit) as exit:
            run()
        printed = capsys.readouterr()
        return exit.value.code or 0, printed.out, printed.err

    return call


def pytest_report_header() -> str:
    reason = postgresql.missing()
    return f"postgresql: {reason or postgresql.programs()}" + ("; tests skip" if reason else "")


@pytest.fixture(scope="session")
def postgres():
    """A running PostgreSQL server that tests may stop and kill, or a skip that says why."""
    if reason := postgresql.missing():
        pytest.skip(reason)
    with postgresql.server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres) -> Iterator[str]:
    """The URL of a database of its own on that server, which runs."""
    if postgres.process is None:
        postgres.start()
    url = postgres.new_database()
    yield url
    if postgres.process is not None:
        postgres.drop_database(url)
