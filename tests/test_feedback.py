"""Scores of decisions: taken over HTTP, kept in a file, learnt from by `fit`."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import openai
import pytest

from routewright.data import outcomes, queries
from routewright.data.journal import Journal
from routewright.dedicated import teaching
from routewright.errors import BadInput
from routewright.experts.limits import objection
from routewright.fitting.fit import fit
from routewright.gateway.errors import BadRequest
from routewright.gateway.feedback import Feedback
from routewright.types import Answer, Decision, Expert, Query
from tables import table, write
from test_gateway import post, served
from upstream import Upstream, asked


def scored(path: Path | None, *scores: object, stream: bool = False):
    """Asks once, then sends every score for that decision; gives the replies."""

    async def work(client):
        raw = client.chat.completions.with_raw_response
        reply = await raw.create(model="auto", messages=asked(), stream=stream)
        if stream:
            async for _ in reply.parse():
                pass
        decision = reply.headers["x-routewright-decision-id"]
        bodies = [{"decision_id": decision, "score": score} for score in scores]
        return [await post("/feedback", body)(client) for body in bodies]

    server = {"feedback": str(path)} if path else {}
    return served(work, Upstream(), server=server)


@pytest.mark.parametrize("stream", [False, True])
def test_a_score_becomes_a_row_of_an_outcome_table(tmp_path: Path, stream: bool):
    path = tmp_path / "feedback.jsonl"
    [told] = scored(path, 0.5, stream=stream)
    assert (told["score"], told["expert"]) == (0.5, "small")
    rows = outcomes.read(path, split="train")
    assert rows.experts == ("small",)
    assert rows.queries[0].text == asked()[0]["content"]
    assert rows.queries[0].id == told["decision_id"]
    assert rows.score[0, 0] == 0.5
    assert rows.cost[0, 0] > 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_nothing_is_kept_of_what_nobody_scores(tmp_path: Path):
    path = tmp_path / "feedback.jsonl"
    scored(path)
    assert path.read_text() == ""


def test_the_file_goes_on_where_it_was(tmp_path: Path):
    path = tmp_path / "feedback.jsonl"
    scored(path, 1)
    scored(path, 0)
    assert outcomes.read(path).score.ravel().tolist() == [1, 0]


@pytest.mark.parametrize(
    ("scores", "status", "told"),
    [
        ((1, 1), 409, "has been scored already"),
        ((1.5,), 400, "score (1.5)"),
        ((True,), 400, "score (true)"),
        (("good",), 400, 'score ("good")'),
        ((None,), 400, "score (null)"),
    ],
)
def test_a_score_that_cannot_be_taken_says_why(tmp_path: Path, scores, status, told):
    with pytest.raises(openai.APIStatusError) as refused:
        scored(tmp_path / "feedback.jsonl", *scores)
    assert refused.value.status_code == status
    assert told in str(refused.value)


def test_decisions_that_are_not_known_and_gateways_that_keep_none_are_404(tmp_path: Path):
    unknown = post("/feedback", {"decision_id": "nobody", "score": 1})
    for server, told in (
        ({"feedback": str(tmp_path / "feedback.jsonl")}, "x-routewright-decision-id"),
        ({}, "server.feedback"),
    ):
        with pytest.raises(openai.NotFoundError, match=told):
            served(unknown, Upstream(), server=server)


def test_the_oldest_decisions_are_forgotten_first(tmp_path: Path):
    kept = Feedback(tmp_path / "feedback.jsonl", max_decisions=2)
    for name in ("one", "two", "three"):
        kept.remember(name, "default", Query.of(name), Decision(Answer("small")))
    with pytest.raises(BadRequest, match="is unknown"):
        kept.score("one", 1)
    assert kept.score("two", 1)["prompt"] == "two"
    kept.journal.close()


def test_a_score_that_the_disk_has_no_room_for_can_be_sent_again(tmp_path: Path, caplog):
    import resource

    path = tmp_path / "feedback.jsonl"
    was = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def work(client):
        raw = client.chat.completions.with_raw_response
        asks = [await raw.create(model="auto", messages=asked()) for _ in range(2)]
        ids = [reply.headers["x-routewright-decision-id"] for reply in asks]
        await post("/feedback", {"decision_id": ids[0], "score": 1})(client)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 20, was[1]))
        try:
            with pytest.raises(openai.InternalServerError) as failure:
                await post("/feedback", {"decision_id": ids[1], "score": 0})(client)
            assert (await raw.create(model="auto", messages=asked())).status_code == 200
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, was)
        assert (failure.value.status_code, failure.value.type) == (503, "server_error")
        assert str(tmp_path) not in failure.value.response.text
        assert str(path) in caplog.text
        await post("/feedback", {"decision_id": ids[1], "score": 0})(client)

    served(work, Upstream(), server={"feedback": str(path)})
    assert outcomes.read(path).score.ravel().tolist() == [1, 0]


def test_queries_in_memory_are_bounded_by_their_length_too(tmp_path: Path):
    kept = Feedback(tmp_path / "feedback.jsonl", max_text=250)
    for name in ("one", "two", "three"):
        kept.remember(name, "default", Query.of("x" * 100), Decision(Answer("small")))
    with pytest.raises(BadRequest, match="is unknown"):
        kept.score("one", 1)
    assert kept.score("three", 1)["score"] == 1
    kept.journal.close()


@pytest.mark.parametrize("place", ["", "file/feedback.jsonl", "taken"])
def test_a_file_that_cannot_be_kept_ends_the_gateway_at_once(tmp_path: Path, place: str):
    (tmp_path / "file").touch()
    with Journal(tmp_path / "taken"), pytest.raises(BadInput, match=r"server\.feedback|another"):
        served(post("/feedback", {}), Upstream(), server={"feedback": str(tmp_path / place)})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kept", [False, True])
def test_answers_are_kept_on_request_and_are_lessons_then(tmp_path: Path, kept: bool, stream: bool):
    path = tmp_path / "feedback.jsonl"
    small, large = (
        Upstream(says="<DEFER>"),
        Upstream(says=lambda body: f"{len(body['messages'])} it is"),
    )
    policy = {"strategy": "dedicated", "options": {"expert": "small", "then": ["large"]}}

    async def work(client):
        for text, score in (("first", 1), ("second", 0), ("third", 1)):
            raw = client.chat.completions.with_raw_response
            reply = await raw.create(model="auto", messages=asked(text), stream=stream)
            if stream:
                async for _ in reply.parse():
                    pass
            decision = reply.headers["x-routewright-decision-id"]
            await post("/feedback", {"decision_id": decision, "score": score})(client)

    server = {"feedback": str(path), "feedback_answers": kept}
    served(work, small, large, policies={"default": policy}, server=server)
    assert ("1 it is" in path.read_text()) == kept
    if kept:
        lessons = teaching.answers(outcomes.table(path), "large")
        assert [(i.query.text, i.reference) for i in lessons] == [
            ("first", "1 it is"),
            ("third", "1 it is"),
        ]


def test_an_interview_of_scored_queries_keeps_to_their_limits(tmp_path: Path):
    """A restricted query that somebody scored must not leave when it is asked again."""
    path = tmp_path / "feedback.jsonl"

    async def work(client):
        raw = client.chat.completions.with_raw_response
        for limits in ({"data_class": "restricted", "region": "eu"}, {}):
            reply = await raw.create(
                model="auto", messages=asked(), extra_body={"routewright": limits}
            )
            decision = reply.headers["x-routewright-decision-id"]
            await post("/feedback", {"decision_id": decision, "score": 1})(client)

    here = {"data_classes": ["public", "restricted"], "region": "eu"}
    served(work, Upstream(), traits=(here,), server={"feedback": str(path)})
    secret, public = (item.query for item in queries.read(path))
    assert (secret.data_class, secret.region) == ("restricted", "eu")
    assert (public.data_class, public.region) == ("public", None)
    read_later = queries.read(path, data_class="internal")
    assert [item.query.data_class for item in read_later] == ["restricted", "public"]
    assert objection(Expert("cloud", region="eu"), secret) is not None
    assert len(outcomes.read(path).queries) == 2


def test_fit_learns_from_scores_beside_an_interview(tmp_path: Path):
    """On the interview adder and speller look alike; people say who is good at words."""
    frame = table(400, signal=0.0)
    kept = Feedback(tmp_path / "feedback.jsonl")
    told = table(600, seed=5)
    for i, row in enumerate(told.iter_rows(named=True)):
        expert = ("adder", "speller")[i % 2]
        answer = Answer(expert, cost=row[f"cost::{expert}"])
        query = Query.of(row["prompt"], domain=row["domain"])
        kept.remember(f"d{i}", "default", query, Decision(answer))
        kept.score(f"d{i}", row[f"score::{expert}"])
    chat = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"})
    kept.remember("chat", "default", Query(chat), Decision(Answer("adder", cost=1e-5)))
    kept.score("chat", 1)
    kept.journal.close()
    paths = [write(tmp_path, frame), tmp_path / "feedback.jsonl"]
    rows = outcomes.read(paths, split="train")
    assert [m["role"] for m in rows.queries[-1].messages] == ["system", "user"]
    router = fit(rows, strategy="single")
    word = Query.of("reverse spell letter vowel 7 please", domain="words")
    quality = dict(zip(router.experts, router.predict([word]).quality[0], strict=True))
    assert quality["speller"] > quality["adder"] + 0.1
    lines = [json.loads(line) for line in paths[1].read_text().splitlines()]
    assert {"policy", "latency", "out_tokens", "scored"} <= lines[0].keys()


@pytest.mark.parametrize("what", [os.mkfifo, os.mkdir])
def test_a_file_of_feedback_that_is_none_is_refused_at_once(tmp_path: Path, what):
    what(path := tmp_path / "feedback.jsonl")
    with pytest.raises(BadInput, match="not a regular file"):
        Feedback(path)
    with pytest.raises(BadInput, match="not a regular file"):
        Journal(path)
