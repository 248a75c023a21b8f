"""What each grader calls right, and what it leaves ungraded."""

from __future__ import annotations

import asyncio
import ctypes
import json
import math
import re
import socket
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from routewright.data.queries import Item
from routewright.errors import BadInput, NotAdmissible
from routewright.grading.graders import Graders, build
from routewright.grading.graders import code as code_grader
from routewright.types import Answer, Query


def item(reference=None, grader=None, **facts) -> Item:
    return Item(Query.of("question"), reference=reference, grader=grader, facts=facts)


def score(name, reference, answer, **facts):
    grade = build(name).grade(item(reference, **facts), answer)
    return None if math.isnan(grade.score) else grade.score


@pytest.mark.parametrize(
    ("reference", "answer", "worth"),
    [
        ("5", "-5", 0.0),
        ("3.5", "35", 0.0),
        ("1,000", "1000", 1.0),
        ("Paris", "paris.", 1.0),
        (["NYC", "New York"], "the new york", 1.0),
        (None, "anything", None),
        ("Paris", "", 0.0),
    ],
)
def test_normalised(reference, answer, worth):
    assert score("normalised", reference, answer) == worth


@pytest.mark.parametrize(
    ("reference", "answer", "worth"),
    [
        ("18", "She has 3 left, so #### 18", 1.0),
        ("18", "So the answer is $18.00.", 1.0),
        ("1/2", "50%", 1.0),
        (0.5, "\\boxed{\\frac{1}{2}}", 1.0),
        ("18", "I do not know", 0.0),
        ("18", "3,5", None),  # a list or a decimal comma
        ("eighteen", "18", None),
    ],
)
def test_numeric(reference, answer, worth):
    assert score("numeric", reference, answer) == worth


def test_numeric_takes_a_tolerance():
    assert score("numeric=0.01", "3.14159", "3.14") == 1
    assert score("numeric=0.0001", "3.14159", "3.14") == 0
    with pytest.raises(BadInput, match="tolerance"):
        build("numeric=lots")


@pytest.mark.parametrize(
    ("reference", "answer", "worth"),
    [
        ("B", "(B)", 1.0),
        (1, "The answer is B.", 1.0),
        ("four", "It must be four", 1.0),
        ("B", "four", 1.0),
        ("A", "three hundred", 1.0),
        ("B", "three or four", None),
        ("B", "I would rather not say", 0.0),
        ("Z", "B", None),
        (None, "B", None),
    ],
)
def test_multiple_choice(reference, answer, worth):
    choices = ["three", "four", "five"]
    assert score("multiple_choice", reference, answer, choices=choices) == worth


def test_f1_is_that_of_squad():
    assert score("f1", "Marie Curie", "the Curie family") == 0.5
    assert score("f1", ["a b c", "x"], "x") == 1
    assert score("f1", "", "") == 1
    assert score("f1", "", "something") == 0


def test_a_json_schema_that_cannot_be_used_leaves_the_answer_ungraded():
    schema = {"type": "object", "required": ["a"]}
    assert score("json_schema", None, '{"a": 1}', schema=schema) == 1
    assert score("json_schema", None, "a: 1", schema=schema) == 0
    assert score("json_schema", None, "{}", schema={"type": "banana"}) is None
    remote = {"$ref": "http://127.0.0.1:1/schema.json"}
    assert score("json_schema", None, "{}", schema=remote) is None


# --- code ----------------------------------------------------------------------------------


def run(code, tests=("assert f() == 1",), name="code", **facts):
    return build(name).grade(item(tests=list(tests), **facts), code)


def test_code_must_pass_every_test():
    assert run("def f(): return 1").score == 1
    assert run("def f(): return 1", ["assert f() == 1", "assert f() == 2"]).score == 0
    assert run("def f(: return 1").why.startswith("SyntaxError")
    assert run("```python\ndef f(): return g()\n```", setup="def g(): return 1").score == 1


def test_code_that_ends_early_or_prints_what_looks_like_success_does_not_pass():
    assert run("import os\nos._exit(0)").score == 0
    assert run("raise SystemExit(0)").score == 0
    assert run('print({"error": None, "tests": [None]})\nimport sys\nsys.exit()').score == 0


def test_code_that_never_ends_is_stopped():
    grade = run("while True: pass", name="code=1")
    assert grade.score == 0
    assert re.search(r"took more than 1 s|still ran after", grade.why)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits memory")
def test_code_that_takes_too_much_memory_is_stopped():
    grade = run("x = bytearray(2 * 10**9)\ndef f(): return 1")
    assert (grade.score, grade.why) == (0, "MemoryError: ")


@pytest.mark.parametrize(
    "code",
    [
        "import socket\nsocket.create_connection(('127.0.0.1', {port}))",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nos.system('true')",
        "import os\nos.fork()",
    ],
)
def test_code_reaches_neither_the_network_nor_other_programs(code):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        code = code.replace("{port}", str(server.getsockname()[1]))
        grade = run(f"{code}\ndef f(): return 1")
        assert grade.score == 0
        assert "not allowed" in grade.why
        with pytest.raises(BlockingIOError):
            server.accept()


FORGERIES = {
    "it writes to every stream": """
        import json, os
        for stream in range(64):
            try:
                os.write(stream, json.dumps({"error": None, "tests": [None]}).encode())
            except OSError:
                pass
        os._exit(0)""",
    "it answers in the place of the tests' process": """
        import json, os, struct
        data = json.dumps({"value": True, "after": []}).encode()
        for stream in range(3, 64):
            try:
                os.write(stream, struct.pack("!I", len(data)) + data)
            except OSError:
                pass
        def f(): return 2""",
    "its object equals everything": """
        class Same:
            def __eq__(self, other): return True
            def __ne__(self, other): return False
            def __hash__(self): return 1
        def f(): return Same()""",
    "its number equals everything": """
        class Same(int):
            def __eq__(self, other): return True
        def f(): return Same(7)""",
    "it changes the builtins": """
        import builtins
        builtins.AssertionError = builtins.exec = builtins.compile = lambda *a, **k: None
        def f(): return 2""",
    "it brings builtins of its own": """
        __builtins__ = {"len": lambda x: 1}
        def len(x): return 1
        def f(): return [1, 2]""",
    "it looks for the tests in memory": """
        import sys
        def f():
            needle, frame = "1 == )(f tressa"[::-1], sys._getframe().f_back
            while frame:
                if needle in str(frame.f_locals):
                    return 1
                frame = frame.f_back
            return 2""",
    "its object is told the right number when it is measured": """
        class Near:
            def __sub__(self, other): return 0.0
            __rsub__ = __abs__ = __sub__
            def __lt__(self, other): return True
            __le__ = __gt__ = __ge__ = __lt__
        def f(): return Near()""",
    "it rewrites the tests' own function": """
        def f(check=None):
            try:
                check.__globals__["f"] = lambda: 1
            except BaseException:
                pass
            return 2""",
}


@pytest.mark.parametrize("code", FORGERIES.values(), ids=FORGERIES)
def test_an_answer_cannot_write_its_own_grade(code):
    tests = ["f() == 1 or f(lambda: 1)", "assert f() == 1 or 1 == len(f())"]
    assert run(textwrap.dedent(code), tests).score == 0
    near = ["assert abs(f() - 1) < 1e-6", "assert abs(1 - f()) < 1e-6", "assert 1 <= f() <= 1"]
    for test in near:
        assert not run(textwrap.dedent(code), [test]).score > 0


@pytest.mark.parametrize(
    ("setup", "fake", "test"),
    [
        ("import math", "class math: isclose", "assert math.isclose(f(), 4)"),
        ("import numpy as np", "class np: allclose", "assert np.allclose(f(), [4])"),
        (
            "from numpy import testing",
            "class testing: assert_allclose",
            "testing.assert_allclose(f(), 4)",
        ),
    ],
)
def test_what_tests_compare_with_is_theirs(setup, fake, test):
    forged = f"{fake} = staticmethod(lambda *a, **k: True)\ndef f(): return 5"
    assert run("def f(): return 4", [test], setup=setup).score == 1
    assert run(forged, [test], setup=setup).score == 0


def test_an_answer_reads_and_writes_no_file_outside_its_folder(tmp_path: Path):
    if not confined():
        pytest.skip("this kernel has no Landlock")
    secret, victim = tmp_path / "secret", tmp_path / "victim"
    secret.write_text("1")
    victim.write_text("x")
    reads = f"def f(): return int(open({str(secret)!r}).read())"
    assert "PermissionError" in run(reads).why
    assert "PermissionError" in run(f"import os\nos.remove({str(victim)!r})\ndef f(): return 1").why
    assert victim.read_text() == "x"
    assert "PermissionError" in run("def f(): return len(open('/proc/self/environ').read())").why


def test_an_answer_starts_no_program_by_any_door(tmp_path: Path):
    if not confined():
        pytest.skip("this kernel has no Landlock")
    started = Path(tempfile.gettempdir()) / f"{tmp_path.name}-started"
    code = f"""
    import _posixsubprocess, os, time
    r, w = os.pipe()
    words = [b"/bin/sh", b"-c", b"touch {started}"]
    arguments = words, [b"/bin/sh"], True, (w,), None, [b"PATH=/bin"]
    try:
        _posixsubprocess.fork_exec(*arguments, -1, -1, -1, -1, -1, -1, r, w, False, False, 0, None,
                                   None, None, -1, None, True)
    finally:
        time.sleep(0.3)
    def f(): return 1"""
    run(textwrap.dedent(code))
    assert not started.exists()


DOORS = {
    "a process by fork": """
        import _posixsubprocess, os
        r, w = os.pipe()
        arguments = [b"/x"], [b"/x"], True, (), None, None, -1, -1, -1, -1, -1, -1, r, w
        identity = 0, None, None, None, -1
        _posixsubprocess.fork_exec(*arguments, False, False, *identity, print, True)""",
    "a session of its own, in which it lives on": "import os\nos.setsid()",
    "a signal to the process that tests it": """
        import os, signal
        signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)""",
    "a socket behind Python's": """
        import _socket
        class Socket(_socket.socket):
            pass
        Socket(_socket.AF_INET, _socket.SOCK_DGRAM)""",
}


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is a part of Linux")
@pytest.mark.parametrize("namespaces", [True, False])
@pytest.mark.parametrize("code", DOORS.values(), ids=DOORS)
def test_doors_that_python_does_not_watch_are_shut(code, namespaces, monkeypatch):
    """With user namespaces and without, as in most containers."""
    if not namespaces:
        monkeypatch.setattr(code_grader, "_apart", lambda: ())
    grade = run(f"{textwrap.dedent(code)}\ndef f(): return 1")
    assert grade.score == 0
    assert "not permitted" in grade.why or "not allowed" in grade.why


@pytest.mark.parametrize(
    "code",
    [
        "for n in range(10**6):\n    open(str(n), 'w').write('x' * 10**6)",
        "import os\nwhile True:\n    os.mkdir('x')\n    os.chdir('x')",
        "import os\nos.mkdir('x')\nopen('x/y', 'w')\nos.chmod('x', 0)\nwhile True: pass",
    ],
)
def test_an_answer_cannot_fill_the_disk_and_leaves_nothing_there(code, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    grade = run(code, name="code=1")
    assert grade.score == 0
    assert re.search("wrote more than 64 MB|took more than|OSError|still ran", grade.why)
    assert list(tmp_path.iterdir()) == []


def test_an_answer_may_use_threads_and_numpy():
    code = """
    from concurrent.futures import ThreadPoolExecutor
    import numpy
    def f():
        with ThreadPoolExecutor(2) as pool:
            return sum(pool.map(lambda n: int(numpy.ones(n).sum()), [1]))"""
    grade = run(textwrap.dedent(code))
    assert (grade.score, grade.why) == (1, "")


def confined() -> bool:
    return ctypes.CDLL(None).syscall(444, None, 0, 1) > 0 if sys.platform == "linux" else False


SHARED = {
    "plain values": (
        "def f(x): return [x, {'a': (x, None, 2.5, 1j)}, {1, 2}, b'x', 10**30, range(3)]",
        "assert f(1) == [1, {'a': (1, None, 2.5, 1j)}, {2, 1}, b'x', 10**30, range(3)]",
    ),
    "a list that is sorted in place": (
        "def sort(x): x.sort()",
        "x = [3, 1, 2]\nsort(x)\nassert x == [1, 2, 3]",
    ),
    "a matrix that is turned in place": (
        "def turn(m):\n    for row in m: row.reverse()",
        "m = [[1, 2], [3, 4]]\nturn(m)\nassert m == [[2, 1], [4, 3]]",
    ),
    "a class": (
        "class Stack:\n    def __init__(self): self.items = []\n"
        "    def push(self, x): self.items.append(x); return self\n"
        "    def __len__(self): return len(self.items)\n"
        "    def __iter__(self): return iter(self.items)\n"
        "    def __eq__(self, other): return self.items == other.items\n"
        "    def __add__(self, other):\n        new = Stack()\n"
        "        new.items = self.items + other.items\n        return new",
        "s = Stack().push(1).push(2)\nassert isinstance(s, Stack) and len(s) == 2\n"
        "assert list(s) == [1, 2] and s == Stack().push(1).push(2) and s != Stack()\n"
        "assert (s + s).items == [1, 2, 1, 2]\ns.items = [9]\nassert list(s) == [9]",
    ),
    "errors": (
        "class Empty(ValueError): pass\ndef f(x):\n    if x is None: raise Empty('none')\n"
        "    if x < 0: raise KeyError(x)\n    return x",
        "try:\n    f(None)\nexcept Empty as error:\n    assert str(error) == 'none'\n"
        "else:\n    assert False\n"
        "try:\n    f(-1)\nexcept KeyError as error:\n    assert error.args == (-1,)\n"
        "else:\n    assert False",
    ),
    "functions of the tests": (
        "def apply(g, xs): return sorted(map(g, xs), key=lambda x: -x)",
        "assert apply(lambda x: x * x, [1, 3, 2]) == [9, 4, 1]",
    ),
    "a generator": (
        "def count(n):\n    yield from range(n)",
        "assert list(count(3)) == [0, 1, 2] and next(count(1)) == 0",
    ),
    "named tuples, enums, exact numbers": (
        "from collections import namedtuple, Counter\nfrom enum import IntEnum\n"
        "from fractions import Fraction\nfrom decimal import Decimal\n"
        "Point = namedtuple('Point', 'x y')\n"
        "class Colour(IntEnum):\n    RED = 1\n"
        "def f(): return Point(1, 2), Colour.RED, Fraction(1, 3), Decimal('0.1'), Counter('aab')",
        "p, c, q, d, n = f()\nassert p == (1, 2) and p.x == 1 and c == 1 and c.name == 'RED'\n"
        "from fractions import Fraction\nfrom decimal import Decimal\n"
        "assert q == Fraction(1, 3) and d == Decimal('0.1') and n == {'a': 2, 'b': 1}",
    ),
    "a function called as a builtin is": ("def sum(xs): return 42", "assert sum([1]) == 42"),
    "recursion, and an error of depth": (
        "def f(n): return 1 if n == 0 else n * f(n - 1)",
        "assert f(20) == 2432902008176640000\ntry:\n    f(10**6)\nexcept RecursionError:\n    pass",
    ),
}


@pytest.mark.parametrize(("code", "test"), SHARED.values(), ids=SHARED)
def test_tests_use_what_an_answer_defines_as_if_it_were_their_own(code, test):
    grade = run(code, [test])
    assert grade.score == 1, grade.why


def test_tests_that_cannot_be_run_apart_leave_the_answer_ungraded():
    grade = run("class A: pass", ["class B(A): pass"])
    assert math.isnan(grade.score)
    assert "derives a class" in grade.why


def test_code_leaves_no_files_behind(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("open('left.txt', 'w').write('x')\ndef f(): return 1").score == 1
    assert list(tmp_path.iterdir()) == []


# --- yours, and whose name must stand on the command line ----------------------------------


def test_a_function_of_yours_grades_and_its_failures_are_told(tmp_path: Path, monkeypatch):
    (tmp_path / "my_grader.py").write_text(
        "def length(item, answer):\n    return len(answer) / 10\n"
        "def broken(item, answer):\n    raise RuntimeError('oh')\n"
        "def unsure(item, answer):\n    return None\n"
    )
    monkeypatch.chdir(tmp_path)
    assert score("function=my_grader:length", None, "12345") == 0.5
    assert score("function=my_grader:length", None, "x" * 20) is None
    assert score("function=my_grader:unsure", None, "x") is None
    with pytest.raises(BadInput, match=r"failed on query .*: RuntimeError: oh"):
        build("function=my_grader:broken").grade(item(), "x")
    with pytest.raises(BadInput, match="MODULE:NAME"):
        build("function=my_grader:missing")


def test_a_query_set_cannot_make_us_run_code_unless_the_command_line_says_so():
    wants_code = item(grader="code", tests=["assert True"])
    with pytest.raises(BadInput, match="--grader code"):
        Graders(["exact"]).of(wants_code)
    assert Graders(["exact", "code"]).of(wants_code).grade(wants_code, "pass").score == 1
    wants_f1 = item("a", grader="f1")
    assert type(Graders(["exact"]).of(wants_f1)).__name__ == "F1"


def test_names_that_cannot_be_used_say_the_way_out():
    with pytest.raises(BadInput, match="choose one of auto, code, exact"):
        build("guess")
    with pytest.raises(BadInput, match="write judge=EXPERT"):
        build("judge")
    with pytest.raises(BadInput, match="write exact, not"):
        build("exact=strictly")


# --- judges --------------------------------------------------------------------------------


def judged(name, says, answers=None, **facts):
    asked = []

    async def ask(expert, query):
        asked.append(query)
        return Answer(expert, says(query.text))

    answers = answers or {"a": "good", "b": "bad"}
    grades = asyncio.run(build(name).judge(item(**facts), answers, ask))
    return {name: grade.score for name, grade in grades.items()}, asked


def test_a_judge_sees_reference_and_rubric_and_rates():
    scores, asked = judged(
        "judge=umpire",
        lambda text: "Rating: 10" if "<answer>\ngood" in text else "Rating: 1/10",
        reference="the truth",
        rubric="Be brief.",
    )
    assert scores == {"a": 1.0, "b": 0.0}
    assert all("the truth" in q.text and "Be brief." in q.text for q in asked)


def test_a_pairwise_verdict_that_turns_with_the_order_is_a_tie():
    prefers_first, _ = judged("pairwise=umpire", lambda text: "Better: 1")
    assert prefers_first == {"a": 0.5, "b": 0.5}
    honest, asked = judged(
        "pairwise=umpire",
        lambda text: "Better: 1" if "<answer-1>\ngood" in text else "Better: 2",
        {"a": "good", "b": "bad", "c": "bad"},
    )
    assert honest == {"a": 1.0, "b": 0.25, "c": 0.25}
    assert len(asked) == 4, "equal answers need no verdict"


def test_a_judge_that_may_not_see_a_query_leaves_it_ungraded():
    async def ask(expert, query):
        raise NotAdmissible(expert, "serves data class public, not restricted")

    for name in ("judge=cloud", "pairwise=cloud"):
        grades = asyncio.run(build(name).judge(item(), {"a": "x", "b": "y"}, ask))
        assert all(math.isnan(grade.score) and grade.why for grade in grades.values())


def test_most_answers_decide_where_nobody_knows_the_right_one():
    def vote(**answers):
        async def ask(expert, query):
            raise AssertionError("a vote asks nobody")

        grades = asyncio.run(build("majority").judge(item(), answers, ask))
        return [None if math.isnan(g.score) else g.score for g in grades.values()]

    assert vote(a="It is 4.", b="4", c="5") == [1, 1, 0]
    assert vote(a="4", b="5", c="6") == [None] * 3
    assert vote(a="4", b="4") == [None] * 2, "two may agree by chance"
    assert vote(a="4", b="4", c="5", d="5") == [None] * 4


def test_grades_are_plain_data():
    grade = build("numeric").grade(item("4"), "4")
    assert json.dumps(grade) == '[1.0, "", "4"]'


def test_a_reward_model_scores_answers_by_how_likely_each_is_the_better_one(tmp_path):
    rater = tmp_path / "mine.py"
    rater.write_text("def rate(prompt, answer):\n    return {'good': 2, 'bad': 0}.get(answer)\n")
    grader = build(f"reward=function={rater}:rate")
    answers = {"a": "good", "b": "bad", "c": "bad", "d": "unheard of"}
    grades = asyncio.run(grader.judge(item(), answers, None))
    wins = 1 / (1 + math.exp(-2))
    assert grades["a"].score == pytest.approx(wins)
    assert grades["b"].score == grades["c"].score == pytest.approx((0.5 + 1 - wins) / 2)
    assert math.isnan(grades["d"].score)
    assert "gave no reward" in grades["d"].why
    alone = asyncio.run(build(f"reward=function={rater}:rate").judge(item(), {"a": "good"}, None))
    assert "no other answer" in alone["a"].why
    with pytest.raises(BadInput, match="reward=classifier=NAME"):
        build("reward=judge=umpire")
