"""The sandbox: questions that can be graded, and three real models worth routing between."""

import ast
import calendar
import re
import subprocess
import sys
from collections.abc import Iterable
from datetime import date, timedelta
from functools import cache
from random import Random

import numpy as np
import pytest

from routewright.sandbox.model import MODELS, ROWS, TinyLM, Tokenizer
from routewright.sandbox.skills import (
    SKILLS,
    VERIFY_TEMPLATE,
    Question,
    grade,
    is_held_out,
    questions,
)

ARITHMETIC = [s.name for s in SKILLS.values() if s.domain == "arithmetic"]
STRINGS = [s.name for s in SKILLS.values() if s.domain == "strings"]


@cache
def reply(model: str, prompt: str) -> str:
    return TinyLM.load(model).generate(prompt).text


def accuracy(model: str, asked: Iterable[Question]) -> float:
    return float(np.mean([grade(q, reply(model, q.text)) for q in asked]))


def auc(scores: list[float], right: list[float]) -> float:
    """The chance that a right answer scores above a wrong one, by counting the pairs."""
    yes = np.array([s for s, r in zip(scores, right, strict=True) if r])
    no = np.array([s for s, r in zip(scores, right, strict=True) if not r])
    above = (yes[:, None] > no).mean() + (yes[:, None] == no).mean() / 2
    return float(above)


def test_held_out_questions_are_never_drawn_for_training() -> None:
    pytest.importorskip("torch")
    from routewright.sandbox.train import RECIPES, Lessons

    tokenizer = Tokenizer(TinyLM.load("sage").config.words)
    lessons = Lessons(RECIPES["sage"], tokenizer, Random(0))
    drawn = {lessons.question().text for _ in range(3000)}
    assert not drawn & {q.text for q in questions(4000, seed=1)}
    assert not any(is_held_out(text) for text in drawn)


def test_a_tenth_of_all_questions_is_held_out() -> None:
    rng = Random(0)
    texts = {s.sample(rng).text for s in SKILLS.values() for _ in range(500)}
    assert 0.08 < np.mean([is_held_out(text) for text in texts]) < 0.12


def test_questions_are_distinct_and_the_same_in_every_run() -> None:
    drawn = questions(4000, seed=5)
    assert len({q.text for q in drawn}) == len({q.id for q in drawn}) == 4000
    assert drawn == questions(4000, seed=5) != questions(4000, seed=6)
    assert all(is_held_out(q.text) for q in drawn)
    assert {q.skill for q in questions(24, seed=5, skills=["sort", "month"])} == {"sort", "month"}


def test_asking_for_more_questions_than_there_are_says_how_many_there_are() -> None:
    with pytest.raises(ValueError, match=r"only \d+ distinct questions"):
        questions(5000, seed=0, skills=["weekday"])
    with pytest.raises(ValueError, match="no skill 'poetry'"):
        questions(1, seed=0, skills=["poetry"])


def test_an_answer_is_right_whatever_its_case_and_blanks() -> None:
    for q in questions(24, seed=2):
        assert grade(q, f"  {q.answer.upper()}\n") == 1.0 == grade(q.answer, q.answer)
        assert grade(q, q.answer + "0") == 0.0 == grade(q, "")


def value(node: ast.AST) -> bool:
    """What a boolean expression is worth, by Python's own grammar."""
    match node:
        case ast.Constant(bool() as literal):
            return literal
        case ast.Compare(ast.Constant(int() as a), [op], [ast.Constant(int() as b)]):
            return a < b if isinstance(op, ast.Lt) else a > b
        case ast.UnaryOp(ast.Not(), operand):
            return not value(operand)
        case ast.BoolOp(ast.And(), [a, b]):
            return value(a) and value(b)
        case ast.BoolOp(ast.Or(), [a, b]):
            return value(a) or value(b)
    raise AssertionError(ast.dump(node))


def test_boolean_answers_agree_with_python() -> None:
    for q in questions(300, seed=3, skills=["boolean"]):
        expression = q.text.split(": ", 1)[-1].removeprefix("What is the value of ").rstrip("?.")
        expression = expression.replace("true", "True").replace("false", "False")
        assert q.answer == str(value(ast.parse(expression, mode="eval").body)).lower()


def test_calendar_answers_agree_with_the_calendar() -> None:
    for q in questions(300, seed=3, skills=["weekday"]):
        (n,) = (int(digits) for digits in re.findall("[0-9]+", q.text))
        (start,) = (d for d in calendar.day_name if d in q.text)
        monday = date(2024, 1, 1) + timedelta(list(calendar.day_name).index(start))
        landed = monday + timedelta(n if "after" in q.text else -n)
        assert q.answer == calendar.day_name[landed.weekday()].lower()


@pytest.mark.parametrize(
    ("specialist", "own", "foreign"),
    [("abacus", ["multiplication"], STRINGS), ("lexis", ["sort", "weekday"], ARITHMETIC)],
)
def test_a_specialist_beats_sage_at_home_and_loses_elsewhere(
    specialist: str, own: list[str], foreign: list[str]
) -> None:
    home, away = questions(200, seed=11, skills=own), questions(200, seed=11, skills=foreign)
    assert accuracy(specialist, home) > accuracy("sage", home) + 0.15
    assert accuracy(specialist, away) < accuracy("sage", away) - 0.4


@pytest.mark.parametrize(
    ("specialist", "domains"),
    [("abacus", {"arithmetic", "units"}), ("lexis", {"strings", "calendar"})],
)
def test_a_specialist_is_mostly_right_at_home_but_not_always(
    specialist: str, domains: set[str]
) -> None:
    home = [name for name, skill in SKILLS.items() if skill.domain in domains]
    assert 0.85 < accuracy(specialist, questions(250, seed=11, skills=home)) < 0.99


def test_sage_is_the_best_single_model_and_a_perfect_router_would_beat_it() -> None:
    asked = questions(300, seed=12)
    right = {m: np.array([grade(q, reply(m, q.text)) for q in asked]) for m in MODELS}
    assert right["sage"].mean() > max(right["abacus"].mean(), right["lexis"].mean()) + 0.1
    assert np.max(list(right.values()), axis=0).mean() > right["sage"].mean() + 0.05


@pytest.mark.parametrize("model", MODELS)
def test_a_model_can_tell_its_right_answers_from_its_mistakes(model: str) -> None:
    lm, asked = TinyLM.load(model), questions(240, seed=13)
    right = [grade(q, reply(model, q.text)) for q in asked]
    assert auc([lm.verify(q.text, reply(model, q.text)) for q in asked], right) > 0.65


@pytest.mark.parametrize("model", MODELS)
def test_a_stream_is_the_answer_in_pieces(model: str) -> None:
    lm = TinyLM.load(model)
    for q in questions(24, seed=14):
        assert "".join(lm.stream(q.text)) == lm.generate(q.text).text
    word = questions(1, seed=14, skills=["reverse"])[0]
    assert len(list(lm.stream(word.text))) > 1


def test_answers_repeat_at_temperature_zero_and_with_a_seed() -> None:
    lm = TinyLM.load("abacus")
    asked = [q.text for q in questions(20, seed=15, skills=STRINGS)]
    assert [lm.generate(t) for t in asked] == [lm.generate(t) for t in asked]

    def sampled(seed: int) -> list[str]:
        return [lm.generate(t, temperature=1.5, seed=seed).text for t in asked]

    assert sampled(1) == sampled(1) != sampled(2)


def test_the_cache_changes_nothing() -> None:
    lm = TinyLM.load("sage")
    prompt = lm._prompt(
        "Is it true or false: (((true) or 11 > 95) or 77 < 11) and not 4123 < 5678?"
    )
    assert len(prompt) > ROWS
    steps = list(lm._steps(prompt, 32, 0.0, None))
    whole = prompt + [token for token, _ in steps[:-1]]
    afresh = lm._forward(np.array(whole), 0, lm._empty_cache(len(whole)))
    np.testing.assert_allclose(afresh, steps[-1][1], atol=1e-4)


def test_a_completion_counts_its_tokens_and_says_why_it_stopped() -> None:
    lm = TinyLM.load("sage")
    whole = lm.generate("Reverse the word planet.")
    assert whole.finish_reason == "stop"
    assert whole.completion_tokens == len(whole.logprobs) == len(whole.text) + 1
    cut = lm.generate("Reverse the word planet.", max_tokens=2, top_logprobs=3)
    assert cut.finish_reason == "length"
    assert cut.text == whole.text[:2]
    assert cut.logprobs == [max(top.values()) for top in cut.top_logprobs]


def test_any_text_is_read_and_a_prompt_too_long_is_refused() -> None:
    lm = TinyLM.load("lexis")
    assert lm.generate("Ünïcode 🙂\n\t∑?").completion_tokens > 0
    assert lm.generate("").completion_tokens > 0
    with pytest.raises(ValueError, match=f"context length of {lm.config.context} tokens"):
        lm.generate("why " * 400)
    with pytest.raises(ValueError, match="choose from abacus, lexis, sage"):
        TinyLM.load("oracle")


def test_the_tokenizer_gives_back_what_it_reads() -> None:
    tokenizer = Tokenizer(TinyLM.load("sage").config.words)
    for q in questions(240, seed=16):
        text = VERIFY_TEMPLATE.format(question=q.text, answer=q.answer).lower()
        assert tokenizer.decode(tokenizer.encode(text)).replace(" ", "") == text.replace(" ", "")
        assert tokenizer.decode(tokenizer.encode(q.answer)) == q.answer


def test_inference_needs_no_torch() -> None:
    code = (
        "import sys; from routewright.sandbox.model import TinyLM; "
        "print(TinyLM.load('abacus').generate('What is 2 + 3?').text, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["5", "False"]
