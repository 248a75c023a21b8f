"""Routewright picks, for every query, which language model should answer it.

Seven nouns:

    Query       what is asked, and the limits within which it may be answered
    Expert      a model that can be asked: its prices, and which texts it may see
    Prediction  the quality, cost and latency that are expected of every expert
    Ask         one question to one expert; a strategy yields asks
    Answer      what one expert replied, and its cost
    Decision    the answer that the client gets, the reason, and everything that was paid
    Outcome     a scored answer, one cell of the table that routers are trained on

Four steps:

    read        an outcome table: every expert's score and cost on every query
    fit         a router to it, which learns which expert is good at what
    evaluate    the router, or a strategy of your own, on rows that it was not fitted on
    serve       it to any OpenAI client, or `decide` about one query

>>> import routewright as rw
>>> from routewright.demo import example  # a small table of three tiny models, made here
>>> table = rw.read(example() / "outcomes.parquet")
>>> router = rw.fit(table.where(split="train"), strategy="single")
>>> evaluation = rw.evaluate(router, table.where(split="dev"))
>>> print(evaluation)  # doctest: +ELLIPSIS
60 queries, 3 experts
...

A strategy decides, step by step, whom to ask. It is a generator that yields asks, is sent
answers and returns a decision; `replay` runs it on recorded answers, the gateway on the network:

>>> class SecondOpinion:
...     def plan(self, query):
...         one, other = yield rw.Ask("abacus"), rw.Ask("lexis")
...         if one.status == "ok" and one.text == other.text:
...             return rw.Decision(one, because="both said the same")
...         return rw.Decision((yield rw.Ask("sage")), because="they disagreed")
>>> rw.replay(SecondOpinion(), table.queries[0], table.record(0)).path
'abacus>lexis>sage'

Everything is imported when it is first used; `import routewright` itself loads no library.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = [  # noqa: RUF022  # in the order of their use
    "read",
    "fit",
    "evaluate",
    "replay",
    "decide",
    "serve",
    "Query",
    "Expert",
    "Ask",
    "Answer",
    "Decision",
    "Committee",
    "Strategy",
    "Outcomes",
    "Router",
]

if TYPE_CHECKING:
    from routewright.data.outcomes import Outcomes, read
    from routewright.drive import replay
    from routewright.evaluation.evaluate import evaluate
    from routewright.fitting.fit import fit
    from routewright.gateway.python import decide, serve
    from routewright.router.router import Router
    from routewright.types import Answer, Ask, Committee, Decision, Expert, Query, Strategy
else:
    _MODULES = {
        "routewright.types": "Answer Ask Committee Decision Expert Query Strategy",
        "routewright.data.outcomes": "Outcomes read",
        "routewright.drive": "replay",
        "routewright.evaluation.evaluate": "evaluate",
        "routewright.fitting.fit": "fit",
        "routewright.gateway.python": "decide serve",
        "routewright.router.router": "Router",
    }
    _HOME = {name: module for module, names in _MODULES.items() for name in names.split()}

    def __getattr__(name):
        """Imports a public name when it is first used (PEP 562)."""
        if name not in _HOME:
            raise AttributeError(f"module 'routewright' has no attribute '{name}'")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})
