"""What is folded, counted or rounded so that one query is quick says what the plain sum says."""

from __future__ import annotations

import string

import numpy as np
import pytest

from routewright.checks import TEXTS, training_data
from routewright.prediction.encoders.lexical import BITS, Lexical, _counted
from routewright.prediction.encoders.surface import _kinds
from routewright.prediction.novelty import Novelty
from routewright.prediction.predictors import components, deviations, view
from routewright.prediction.predictors.factor import Factor
from routewright.prediction.predictors.knn import Knn
from routewright.prediction.predictors.linear import Linear, fit_ridge
from routewright.prediction.predictors.stack import Stack
from routewright.prediction.predictors.trees import Trees
from routewright.types import Query

CLOSE = 1e-9


@pytest.fixture(scope="module")
def lesson():
    return training_data(400)


def equal(found, plain, within=CLOSE) -> bool:
    return bool(np.allclose(found, plain, rtol=0, atol=within, equal_nan=True))


def test_linear_weights_through_the_view_are_those_of_the_ridge(lesson):
    x, scores, blocks = lesson
    seen = view(blocks, text=10**0.5, domain=2.0, surface=0.3, width=128)
    plain = fit_ridge(seen(x), scores).predict(seen(x))
    assert equal(Linear().fit(x, scores, blocks=blocks).predict(x).mean, plain.mean)


def test_factor_weights_through_the_view_are_those_of_centred_columns(lesson):
    x, scores, blocks = lesson
    seen = view(blocks, text=10**0.5, domain=2.0, surface=0.3, width=128)(x)
    model = Factor(penalty=10.0)
    plain = model._solve(seen - seen.mean(axis=0), scores, 10.0, 0)
    logit = plain.ability + (seen - seen.mean(axis=0)) @ plain.queries @ plain.experts
    found = model.fit(x, scores, blocks=blocks).predict(x).mean
    assert equal(found, 1 / (1 + np.exp(-logit)))


def test_trees_are_walked_as_scikit_learn_walks_them(lesson):
    from sklearn.ensemble import ExtraTreesRegressor

    x, scores, blocks = lesson
    mean, deviation = deviations(scores)
    basis = components(deviation)
    columns = view(blocks, width=48)(x).astype(np.float32)
    forest = ExtraTreesRegressor(80, min_samples_leaf=8, max_features=0.3, random_state=0)
    plain = mean + forest.fit(columns, deviation @ basis).predict(columns) @ basis.T
    found = Trees().fit(x, scores, blocks=blocks).predict(x).mean
    assert equal(found, plain.clip(0, 1), 1e-6), "leaves are stored in single precision"


def test_neighbours_are_those_of_a_search_in_double_precision(lesson):
    x, scores, blocks = lesson
    model = Knn(20, 0.5).fit(x, scores, blocks=blocks)
    rows = model.view(x)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosine = rows @ model.x.T.astype(np.float64)
    for row, found in zip(cosine, model.predict(x).mean, strict=True):
        order = np.argsort(-row, kind="stable")
        far = 1 - row[order]
        weight = np.maximum(1 - (far[:20] / (far[20] + 1e-9)) ** 2, 1e-3)
        plain = model.mean + weight @ model.deviation[order[:20]] / weight.sum()
        assert equal(found, plain.clip(0, 1))


def test_a_stack_alone_and_in_a_batch_is_the_weighted_sum_of_its_bases(lesson):
    x, scores, blocks = lesson
    stack = Stack().fit(x, scores, blocks=blocks)
    moved = np.stack([model.predict(x).mean for model in stack.models]) - stack.mean
    plain = stack.mean + np.einsum("bne,bef->nf", moved, stack.mixing)
    assert equal(stack.predict(x).mean, plain.clip(0, 1))
    assert equal(np.vstack([stack.predict(row[None]).mean for row in x]), plain.clip(0, 1))


def test_trust_is_that_of_double_precision():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 20))
    novelty = Novelty().fit(x, {"lexical": slice(0, 20)})
    x *= np.linspace(0, 1, 500)[:, None]  # the shorter, the less like anything
    likeness = (x @ novelty.landmarks.T.astype(np.float64)).max(axis=1) / novelty.usual
    plain = likeness.clip(0, 1)
    assert 0.1 < (plain < 1).mean() < 0.9, "both kinds are tried"
    assert equal(novelty.trust(x), plain)


def test_characters_and_ngrams_are_counted_right():
    for text in (*TEXTS, string.printable):
        plain = sum(map(str.isalnum, text)) + sum(map(str.isspace, text))
        counts = (sum(map(str.isdigit, text)), sum(map(str.isupper, text)), plain)
        assert _kinds(text) == counts
    numbers = np.sort(np.random.default_rng(0).integers(0, 50, 200)).astype(np.uint32)
    for ordered in (numbers, numbers[:1], numbers[:0]):
        plain = np.unique(ordered, return_counts=True)
        assert all(np.array_equal(a, b) for a, b in zip(_counted(ordered), plain, strict=True))


def test_lexical_vectors_are_weighted_sums_of_their_features():
    queries = [
        Query.of(text) for text in (*TEXTS, *(f"question {i} about {i * i}" for i in range(20)))
    ]
    encoder = Lexical().fit(queries)
    buckets, counts = encoder._grams(queries[0].text)
    slots = encoder.slots[buckets]
    weights = np.where(slots >= 0, (1 + np.log(counts)) * encoder.idf[slots], 0.0)
    for part in (buckets < 1 << BITS, buckets >= 1 << BITS):
        weights[part] /= np.linalg.norm(weights[part])
    plain = (weights[:, None] * encoder.basis[slots]).sum(axis=0)
    assert equal(encoder.encode(queries[:1])[0], plain, 1e-6), "summed in single precision"
