"""A failed, cancelled or deferred answer is never a reply: strategies of a user's own, behind the
gateway on a real socket and in the contract that they can check themselves with."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest

from routewright import checks, registry
from routewright.drive import replay
from routewright.errors import UpstreamError
from routewright.gateway.policies import WithinLimits
from routewright.strategies.fallback import Fallback
from routewright.strategies.fixed import Fixed
from routewright.strategies.mix import Mix
from routewright.types import Answer, Ask, Committee, Decision, Query
from test_drive_live import live
from test_gateway import create, pieces, raw, served
from upstream import Upstream, drop, status


@dataclass(frozen=True)
class SecondOpinion:
    """Two failed members say the same: nothing."""

    pair: tuple[str, str] = ("small", "large")
    judge: str = "large"

    def plan(self, query):
        one, other = yield tuple(Ask(expert) for expert in self.pair)
        if one.text == other.text:
            return Decision(one, because="both said the same")
        return Decision((yield Ask(self.judge, final=True)), because="they disagreed")


@dataclass(frozen=True)
class Hasty:
    """Keeps the answer that it did not wait for."""

    def plan(self, query):
        asks = map(Ask, ("small", "large"))
        _, late = yield Committee(asks, enough=lambda seen: True)
        return Decision(late, because="the last word")


@dataclass(frozen=True)
class Owned:
    """Does not see that the answer is deferred."""

    def plan(self, query):
        answer = yield Ask("small", final=True, unless=("<DEFER>",))
        return Decision(answer, because="always its own")


@dataclass(frozen=True)
class Invents:
    """Asks nobody."""

    def plan(self, query):
        yield Ask("small")
        return Decision(Answer("small", "made up"), because="nobody was asked")


@dataclass(frozen=True)
class Checker:
    """Takes a verification for an answer."""

    def plan(self, query):
        answer = yield Ask("small")
        return Decision((yield Ask("small", "verify", of=answer)), because="it was checked")


@dataclass(frozen=True)
class Fragile:
    """Cannot read what an expert writes, or not even the query (`early`)."""

    early: bool = False
    final: bool = False

    def plan(self, query):
        if self.early:
            int(query.text)
        answer = yield Ask("small", final=self.final)
        return Decision(answer, because=f"it says {int(answer.text)}")


@pytest.fixture(autouse=True)
def plugins(tmp_path: Path, monkeypatch):
    """The strategies above as another package's entry points."""
    names = ("SecondOpinion", "Hasty", "Owned", "Invents", "Checker", "Fragile")
    package = tmp_path / "mine-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    points = "".join(f"{name.lower()} = {__name__}:{name}\n" for name in names)
    (package / "entry_points.txt").write_text(f"[routewright.strategies]\n{points}")
    monkeypatch.syspath_prepend(tmp_path)
    _forget()
    yield
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    for found in vars(registry).values():
        getattr(found, "cache_clear", lambda: None)()


def policy(strategy, fallback=(), **options):
    entry = {"strategy": strategy, "options": options, "fallback": list(fallback)}
    return {"policies": {"default": entry}}


MIXED = {
    "first": {"strategy": "secondopinion"},
    "second": {"strategy": "secondopinion"},
    "share": 0.5,
}
CASES = [
    pytest.param("secondopinion", {}, [status(500)], "small:failed>large:failed", id="failed"),
    pytest.param("mix", MIXED, [status(500)], "small:failed>large:failed", id="mixed"),
    pytest.param("hasty", {}, [], "small>large:cancelled", id="cancelled"),
    pytest.param("owned", {}, [], "small:deferred", id="deferred"),
]


def upstreams(strategy, faults):
    says = "<DEFER>" if strategy == "owned" else "four"
    return Upstream(says=says, faults=[*faults]), Upstream(delay=0.5, faults=[*faults])


@pytest.mark.parametrize(("strategy", "options", "faults", "path"), CASES)
@pytest.mark.parametrize("stream", [False, True])
def test_the_fallback_answers_instead(strategy, options, faults, path, stream, caplog):
    caplog.set_level(logging.INFO, "routewright")
    third = Upstream(says="from the third")
    chain = policy(strategy, ["third"], **options)
    experts = (*upstreams(strategy, faults), third)
    traits = ({"retries": 0},) * 3
    if stream:
        chunks = served(pieces(), *experts, traits=traits, **chain)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert {chunk.model for chunk in chunks} == {"third"}
    else:
        reply = served(raw(), *experts, traits=traits, **chain)
        assert reply.status_code == 200
        assert reply.headers["x-routewright-path"] == f"{path}>third"
        text = reply.parse().choices[0].message.content
    assert text == "from the third"
    assert third.requests == 1
    line = json.loads(caplog.records[-1].getMessage())
    assert (line["status"], line["expert"], line["path"]) == ("ok", "third", f"{path}>third")


@pytest.mark.parametrize(("strategy", "options", "faults", "path"), CASES)
@pytest.mark.parametrize("how", [create, pieces])
def test_without_a_fallback_it_is_an_error(strategy, options, faults, path, how):
    experts = upstreams(strategy, faults)
    with pytest.raises(openai.InternalServerError, match="failed: ") as error:
        served(how(), *experts, traits=({"retries": 0},) * 2, **policy(strategy, **options))
    response = error.value.response
    assert response.status_code == 502
    assert response.json()["error"]["type"] == "upstream_error"
    assert response.headers["x-routewright-path"] == path
    assert (float(response.headers["x-routewright-cost"]) > 0) == (not faults)


@pytest.mark.parametrize("how", [create, pieces])
@pytest.mark.parametrize("strategy", ["invents", "checker"])
def test_what_nobody_was_asked_is_the_strategys_mistake(strategy, how, capsys):
    large = Upstream()
    with pytest.raises(openai.InternalServerError) as error:
        served(how(), Upstream(), large, **policy(strategy, ["large"]))
    assert error.value.response.status_code == 500
    assert "an answer that it asked for" in capsys.readouterr().err, "the log tells its author"
    assert large.requests == 0


def test_nobody_takes_over_what_was_streamed(caplog):
    """A strategy that has streamed one answer and returns another, which failed."""

    @dataclass(frozen=True)
    class Forgetful:
        def plan(self, query):
            (failed,) = yield (Ask("a"),)
            yield Ask("b", final=True)
            return Decision(failed)

    second = Upstream(says="two")
    third = Upstream(says="three")
    strategy = Fallback(Forgetful(), ("c",))
    texts, decision = live(strategy, Upstream(faults=[drop]), second, third, stream=True)
    assert "".join(texts) == decision.answer.text == "two"
    assert (second.requests, third.requests) == (1, 0)
    assert "nothing after its final answer" in caplog.text


BROKEN = [
    pytest.param({}, ["third"], "small>third", "from the third", id="fallback"),
    pytest.param({"early": True}, ["third"], "third", "from the third", id="before any answer"),
    pytest.param({}, [], "small", "four", id="last answer"),
    pytest.param({"final": True}, [], "small", "four", id="after the final answer"),
]


@pytest.mark.parametrize(("options", "fallback", "path", "text"), BROKEN)
@pytest.mark.parametrize("how", [create, pieces])
def test_a_strategy_that_fails_on_an_answer_still_gives_one(
    options, fallback, path, text, how, caplog
):
    caplog.set_level(logging.INFO, "routewright")
    experts = (Upstream(says="four"), Upstream(), Upstream(says="from the third"))
    reply = served(how(), *experts, **policy("fragile", fallback, **options))
    if how is create:
        assert reply.choices[0].message.content == text
    else:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in reply) == text
    line = json.loads(caplog.records[-1].getMessage())
    assert (line["status"], line["path"]) == ("ok", path)
    (mistake,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert mistake.exc_info[0] is ValueError, "the log has the traceback for the author"


def test_a_fallback_that_was_streamed_already_is_not_streamed_twice():
    """The strategy fails after its final answer, whose text the client has."""
    experts = (Upstream(says="four"), Upstream(), third := Upstream(says="from the third"))
    chunks = served(pieces(), *experts, **policy("fragile", ["third"], final=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "four"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert third.requests == 0


def test_a_strategy_that_fails_before_any_answer_is_an_error_of_ours(capsys):
    with pytest.raises(openai.InternalServerError) as error:
        served(create(), Upstream(), **policy("fragile", early=True))
    assert error.value.response.json()["error"]["code"] == "internal"
    assert "invalid literal for int" in capsys.readouterr().err


# --- the contract --------------------------------------------------------------------------

DOWN = {name: Answer(name, status="failed", reason="is down") for name in ("small", "large")}
THIRD = {**DOWN, "third": Answer("third", "from the third")}
WRAPPERS = [
    lambda inner: inner,
    lambda inner: Mix(inner, inner, 0.5),
    lambda inner: WithinLimits(inner, Fixed("third")),
    lambda inner: Fallback(inner, ("small",)),
    lambda inner: Fallback(WithinLimits(Mix(inner, inner, 0.5), Fixed("third")), ()),
]


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_whatever_delegates_lets_the_failure_through(wrap):
    with pytest.raises(UpstreamError, match="is down") as failure:
        replay(wrap(SecondOpinion()), Query.of("hi"), THIRD)
    assert [answer.status for answer in failure.value.spent][:2] == ["failed", "failed"]
    decision = replay(Fallback(wrap(SecondOpinion()), ("third",)), Query.of("hi"), THIRD)
    assert (decision.answer.text, decision.answer.expert) == ("from the third", "third")


@pytest.mark.parametrize("faulty", [SecondOpinion(("small", "middle")), Hasty(), Owned()])
@pytest.mark.parametrize("wrap", WRAPPERS[:2])
def test_the_contract_finds_a_strategy_that_returns_what_did_not_arrive(faulty, wrap):
    with pytest.raises(AssertionError, match="must not be returned"):
        checks.check_strategy(wrap(faulty))
    checks.it_returns_only_answers_that_arrived(Fallback(wrap(faulty), ("large",)))


@pytest.mark.parametrize("faulty", [Invents(), Checker()])
def test_the_contract_finds_answers_that_nobody_gave(faulty):
    with pytest.raises(AssertionError, match="an answer that it asked for"):
        checks.check_strategy(faulty)


def test_one_failed_member_does_not_decide_for_the_other():
    """A second opinion that asks its judge where a member failed keeps the contract."""

    class Careful(SecondOpinion):
        def plan(self, query):
            one, other = yield tuple(Ask(expert) for expert in self.pair)
            if one.status == other.status == "ok" and one.text == other.text:
                return Decision(one, because="both said the same")
            answer = yield Ask(self.judge, final=True)
            return Decision(answer, because="they disagreed, or one could not be asked")

    checks.check_strategy(Careful(("small", "middle")))
