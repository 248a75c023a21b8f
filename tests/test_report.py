"""The report: whole, self-contained, and honest when there is nothing to be proud of."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from routewright.data import outcomes
from routewright.data.outcomes import Outcomes
from routewright.evaluation import canvas, figures, labels, plots, report
from routewright.evaluation.evaluate import evaluate
from routewright.evaluation.figures import Evaluation
from routewright.evaluation.report import pictures, words
from routewright.fitting.fit import fit
from routewright.metrics.sampling import wilson
from routewright.router.router import Router

SMALL, LARGE, ODD = "org/small-7b", "large & dear <x>", "$odd_name$"
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Checks that tags close in order; gathers ids, text and what would be fetched."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for key, value in attrs if key == "id"]
        links = [v for k, v in attrs if k in ("src", "href", "srcset", "data", "action")]
        self.fetched += [link for link in links if not link.startswith("#")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\xa0", " ").split())


def table(path: Path, n: int = 300, seed: int = 0) -> Path:
    """Three experts: the small one can do sums, the large one nearly everything."""
    rng = np.random.default_rng(seed)
    sums = rng.random(n) < 0.5
    words = ["<script>alert(1)</script>", "river", "stone", "cloud"]
    prompts = [
        f"{seed}.{i}: what is {i} plus {i}?" if s else f"{seed}.{i}: tell of the {words[i % 4]}"
        for i, s in enumerate(sums)
    ]
    chance = {SMALL: np.where(sums, 0.9, 0.1), LARGE: np.full(n, 0.92), ODD: np.full(n, 0.3)}
    costs = {SMALL: 0.0001, LARGE: 0.002, ODD: 0.0004}
    columns = {
        "id": [f"{seed}-{i}" for i in range(n)],
        "prompt": prompts,
        "domain": np.where(sums, "sums & more", "tales").tolist(),
    }
    for name in (SMALL, LARGE, ODD):
        columns[f"score::{name}"] = (rng.random(n) < chance[name]).astype(float)
        columns[f"cost::{name}"] = costs[name] * rng.uniform(0.8, 1.2, n)
    pl.DataFrame(columns).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[Router, Outcomes, Outcomes]:
    folder = tmp_path_factory.mktemp("tables")
    train = outcomes.read(table(folder / "train.parquet"))
    dev = outcomes.read(table(folder / "dev.parquet", seed=1))
    router = fit(train, encoder="lexical+domain", predictor="linear")
    return router, train, dev


def measured(router: Router, rows: Outcomes, **measures: np.ndarray) -> Evaluation:
    rows = replace(rows, measures={**rows.measures, **measures})
    return evaluate(router, rows, replicates=200)


def page(e: Evaluation, **more) -> Page:
    return Page(report.render(e, e.to_json(), **more))


def study(e: Evaluation) -> report.Study:
    return report.Study(e, e.to_json())


# --- the page ------------------------------------------------------------------------------


def test_the_page_is_whole_and_needs_nothing_from_outside(fitted):
    router, _, dev = fitted
    e = measured(router, dev)
    html = report.render(e, e.to_json(), "routewright evaluate router dev.parquet")
    parsed = Page(html)
    assert parsed.tags.count("svg") == 2 * 3, "for wide pages and for telephones"
    assert "script" not in parsed.tags
    assert parsed.fetched == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert not re.search(r"https?:|//\w|@import|url\((?!#)", html)
    assert "routewright evaluate router dev.parquet" in parsed.text
    for section in ("Cost and quality", "Who is asked", "By domain", "Where it is wrong"):
        assert section in parsed.text


def test_names_and_prompts_are_text_and_never_markup(fitted):
    router, _, dev = fitted
    e = measured(router, dev)
    html = report.render(e, e.to_json(), command="evaluate <b>& more")
    assert "<script" not in html
    assert "dear <x>" not in html
    parsed = Page(html)
    for name in (SMALL, LARGE, ODD, "sums & more", "evaluate <b>& more"):
        assert name in parsed.text


def test_the_same_evaluation_gives_the_same_bytes(fitted):
    router, _, dev = fitted
    e = measured(router, dev)
    figures = e.to_json()
    assert report.render(e, figures) == report.render(e, figures)


# --- the headline --------------------------------------------------------------------------


def test_a_router_that_pays_says_by_how_much(fitted):
    router, _, dev = fitted
    found = report.headline(study(measured(router, dev)))
    assert found.verdict == "gain"
    assert found.lead.startswith("A policy with max_cost_fraction 0.5 reaches ")
    assert f" of the cost of always asking {LARGE}." in found.lead
    assert ("asked for", "at most 50\N{NO-BREAK SPACE}%") in [tile[:2] for tile in found.tiles]
    assert re.match(r"\+\d+\.\d$", found.number)
    over = r"percentage points \(\+\d+\.\d to \+\d+\.\d\) over mixing fixed experts"
    assert re.match(over, found.gain)


def test_the_head_of_the_page_is_about_the_point_that_is_served(fitted):
    router, _, dev = fitted
    e = measured(router, dev)
    mix = router.strategy_at(router.within(max_cost_fraction=0.5))
    (point,) = evaluate(mix, dev).to_json()["curve"]
    text = page(e).text
    assert f"reaches {100 * point['quality']:.1f} % at {100 * point['cost_fraction']:.0f} %" in text
    assert f"US${words.dollars(point['cost'])} per 1,000 queries" in text


def test_a_gain_whose_interval_includes_zero_is_not_claimed(fitted):
    router, _, dev = fitted
    rng = np.random.default_rng(3)
    e = measured(router, dev, score=rng.permuted(dev.score, axis=0))
    found = report.headline(study(e))
    low, high = figures.gains(study(e).served)[1:, 0]
    assert low <= 0 <= high
    assert found.verdict == "unproven"
    assert "no proven gain over mixing fixed experts" in found.gain


def test_a_loss_is_called_a_loss(fitted):
    router, _, dev = fitted
    score = dev.score.copy()
    score[:, 0] = 1 - score[:, 0]  # the small expert fails where the router trusts it
    found = report.headline(study(measured(router, dev, score=score)))
    assert found.verdict == "loss"
    assert found.number.startswith("−")
    assert "worse than mixing fixed experts" in found.gain


def test_a_router_that_cannot_be_cheap_is_judged_at_its_own_cost(fitted):
    router, _, dev = fitted
    dearest = replace(router, frontier=router.frontier[:1])
    found = study(measured(dearest, dev))
    assert "the least it can spend" in report.headline(found).lead
    assert not any(row.reachable for row in report.fraction_rows(found) if row.fraction <= 0.5)
    assert found.half_label == "at its lowest cost"


def test_a_router_that_never_spends_half_is_judged_at_its_dearest(fitted):
    router, _, dev = fitted
    e = measured(replace(router, frontier=router.frontier[-1:]), dev)
    assert "the most it can spend" in report.headline(study(e)).lead


# --- what may be unknown -------------------------------------------------------------------


@pytest.mark.parametrize(("cost", "words"), [(np.nan, "No costs are known"), (0.0, "is free")])
def test_without_costs_quality_alone_is_shown(fitted, cost, words):
    router, _, dev = fitted
    parsed = page(measured(router, dev, cost=np.full_like(dev.cost, cost)))
    assert words in parsed.text
    assert "US$" not in parsed.text
    assert parsed.tags.count("svg") == 2 * 2  # bars and reliability, no shares along a cost
    assert "nan" not in parsed.text


def test_missing_scores_are_left_out_and_not_made_up(fitted):
    router, _, dev = fitted
    score = dev.score.copy()
    score[np.random.default_rng(0).random(score.shape) < 0.4] = np.nan
    assert "nan" not in page(measured(router, dev, score=score)).text


def test_an_expert_that_is_never_asked_need_not_be_scored(fitted):
    router, _, dev = fitted
    score = dev.score.copy()
    score[:, 2] = np.nan
    assert "nan" not in page(measured(_without_odd(router), dev, score=score)).text


def _without_odd(router: Router) -> Router:
    points = tuple(point for point in router.frontier if ODD not in point.shares)
    assert 0 < len(points) < len(router.frontier)
    return replace(router, frontier=points)


def test_an_expert_without_known_cost_is_left_out_of_the_curve(fitted):
    router, _, dev = fitted
    cost = dev.cost.copy()
    cost[:, 2] = np.nan
    assert "nan" not in page(measured(_without_odd(router), dev, cost=cost)).text


def test_strategies_that_ask_several_experts_have_no_shuffled_control(fitted):
    router, _, dev = fitted
    spec = {"strategy": "cascade", "ladder": [SMALL, LARGE], "trust": 0.5}
    mixed = {"strategy": "mix", "first": spec, "second": spec, "share": 0.5}
    points = tuple(replace(point, spec=mixed) for point in router.frontier[:2])
    sure = np.random.default_rng(0).random(dev.score.shape)
    e = measured(replace(router, frontier=points), dev, verify=sure)
    assert study(e).control is None
    text = page(e).text
    assert "choices shuffled" not in text
    assert "several" in text


# --- the numbers ---------------------------------------------------------------------------


def test_the_shuffled_control_is_the_mean_over_shuffles(fitted):
    router, _, dev = fitted
    score, found = dev.score, study(measured(router, dev))
    k, rng = router.frontier.index(router.at(max_cost_fraction=0.5)), np.random.default_rng(0)
    rows = np.arange(len(dev))
    choices = found.asked[k].argmax(axis=1)
    assert found.asked[k].max(axis=1).tolist() == [1.0] * len(dev), "nothing is drawn"
    dealt = [rng.permutation(choices) for _ in range(4000)]
    assert found.control is not None
    costs, qualities = found.control
    assert qualities[0, k] == pytest.approx(
        np.mean([score[rows, choice].mean() for choice in dealt]), abs=1e-3
    )
    assert costs[0, k] == pytest.approx(
        np.mean([dev.cost[rows, choice].mean() for choice in dealt]), rel=1e-2
    )


def test_shares_add_up_and_domains_agree_with_the_headline(fitted):
    router, _, dev = fitted
    found = study(measured(router, dev))
    assert found.shares.sum(axis=1) == pytest.approx(1.0)
    rows = report.domain_rows(found)
    mean = sum(row.n * row.half for row in rows) / sum(row.n for row in rows)
    assert mean == pytest.approx(found.figures["at_cost_fraction"]["0.5"]["quality"])


def test_the_mistakes_shown_are_the_worst_there_are(fitted):
    router, _, dev = fitted
    found = study(measured(router, dev))
    shown = report.mistakes(found)
    chosen = (dev.score * found.served.runs[0].asked).sum(axis=1)
    lost = dev.score.max(axis=1) - chosen
    assert len(shown) == min(15, (lost > 0).sum())
    for row in shown:
        i = int(row.id.split("-")[1])
        cheapest_right = min(dev.cost[i, dev.score[i] == dev.score[i].max()])
        assert row.better_score - row.score == pytest.approx(lost[i])
        assert row.better_cost == pytest.approx(cheapest_right)
        assert len(row.text) <= 120


def test_only_learned_choices_are_called_wrong(fitted):
    router, _, dev = fitted
    always = {"strategy": "fixed", "expert": SMALL}
    points = tuple(replace(point, spec=always) for point in router.frontier)
    assert report.mistakes(study(measured(replace(router, frontier=points), dev))) == []


@pytest.mark.parametrize("experts", [1, 3, 5])
def test_the_name_of_every_expert_stands_within_the_picture_of_its_forecasts(experts):
    line = np.array([0.2, 0.8])
    panels = [
        plots.Panel(f"expert-{m}", "AUC 0.9", line, line, np.full((2, 2), 0.1))
        for m in range(experts)
    ]
    svg = plots.reliability(panels)
    names = re.findall(r' y="(-?[\d.]+)"[^>]*>expert-', svg)
    assert len(names) == experts
    assert min(map(float, names)) > plots.SIZE, "a baseline, in points below the upper edge"


def test_intervals_of_reliability_hold_their_shares_within_0_and_1():
    share = np.array([0.0, 0.3, 1.0])
    low, high = wilson(share, np.array([20.0, 20.0, 20.0]))
    down, up = share - low, high - share
    assert (share - down >= -1e-12).all()
    assert (share + up <= 1 + 1e-12).all()
    assert up[0] > 0.1  # twenty failures do not prove that success is impossible
    assert down[2] > 0.1


@pytest.mark.parametrize(
    ("show", "number", "text"),
    [
        (words.dollars, 0.0064796, "6.48"),
        (words.dollars, 1.2345, "1,234"),
        (words.dollars, 2.6e-8, "0.000026"),
        (words.dollars, None, "–"),
        (words.percent, 0.0004, "<1 %"),
        (words.percent, 0.5, "50 %"),
        (words.signed, -0.0312, "−3.1"),
        (words.signed, 0.0001, "0.0"),
        (words.points, float("nan"), "–"),
    ],
)
def test_numbers_read_well(show, number, text):
    assert show(number) == text


# --- was it fair? --------------------------------------------------------------------------


def test_an_evaluation_on_the_rows_of_the_fit_is_a_loud_warning(fitted):
    router, train, dev = fitted
    assert "These numbers are too good" in page(measured(router, train)).text
    assert "These numbers are too good" not in page(measured(router, dev)).text


def test_the_same_split_of_a_table_of_the_same_name_is_suspect(fitted):
    router, train, dev = fitted
    renamed = replace(dev, sources=train.sources)
    assert report.audit(measured(router, renamed)).level == "bad"
    other = replace(renamed, split="dev")
    router = replace(
        router, card={**router.card, "data": {**router.card["data"], "split": "train"}}
    )
    assert report.audit(measured(router, other)).level == "open"


def test_prompts_seen_in_the_fit_are_counted(fitted):
    router, train, dev = fitted
    e = measured(router, dev)
    assert report.audit(e, outcomes.fingerprints(train.queries)).level == "good"
    seen = outcomes.fingerprints([*train.queries, *dev.queries[:30]])
    found = report.audit(e, seen)
    assert (found.level, found.text[:17]) == ("bad", "30 of the 300 pro")
    assert "These numbers are too good" in page(e, seen=seen).text


# --- the pictures --------------------------------------------------------------------------


def test_the_readme_picture_is_an_image_that_follows_the_colour_scheme(fitted, tmp_path):
    router, _, dev = fitted
    figures = measured(router, dev).to_json()
    for name in ("one.svg", "two.svg"):
        plots.curve(figures, tmp_path / name)
    svg = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert svg == (tmp_path / "two.svg").read_text(encoding="utf-8")
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in svg
    assert "large & dear <x> · best single" in "".join(root.itertext())
    assert not re.search(r"https?:(?!//www\.w3\.org/2000/svg)", svg)


def test_the_paired_gain_is_drawn_with_its_interval(fitted):
    router, _, dev = fitted
    found = study(measured(router, dev))
    replicates = figures.over_fixed_mix(found.evaluation, found.weights)
    assert found.gains[0] == pytest.approx(replicates[0])
    for k in range(len(found.evaluation.points)):
        ends = np.percentile(replicates[1:, k], [2.5, 97.5])
        assert found.gains[1:, k] == pytest.approx(ends)
    for svg in pictures.cost_quality(found):
        assert "gain over the fixed mix" in svg
        assert "95 % interval of its gain" in svg
    assert "gain over the fixed mix" not in plots.cost_quality(found.figures)


def test_no_interval_is_drawn_above_all_or_below_nothing():
    curve = plots._Curve(np.array([[0.0, 1.0], [3.0, 97.0]]), np.array([[1, 1], [-9, 0], [2, 9]]))
    assert (curve.above_mix[1].min(), curve.above_mix[1].max()) == (0, 100)


@pytest.mark.parametrize(("dearest", "ticks"), [(0.0001, {"0.02", "0.04"}), (0.03, {"0.03", "10"})])
def test_the_axis_of_costs_is_logarithmic_where_they_span_decades(dearest, ticks):
    costs = [0.00002, 0.00005, dearest]
    experts = {f"m{i}": {"quality": 0.4 + 0.1 * i, "cost": cost} for i, cost in enumerate(costs)}
    single = {"name": "m0", **experts["m0"]}
    references = {
        **{"best_single": single, "cheapest": single, "oracle": {"quality": 0.9, "cost": 0.00003}},
        "zero_router": [[e["cost"], e["quality"]] for e in experts.values()],
    }
    svg = plots.cost_quality({"experts": experts, "references": references, "curve": []})
    assert ticks <= set(re.findall(r">([\d.,]+)</text>", svg))


@pytest.mark.parametrize("narrow", [False, True])
def test_nothing_is_cut_at_the_edge_of_a_picture(fitted, narrow):
    router, _, dev = fitted
    found = study(measured(router, dev))
    drawn = [pictures.cost_quality(found), pictures.shares(found), pictures.reliability(found)]
    for picture in drawn:
        svg = picture.narrow if narrow else picture.wide
        width = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
        assert width < 300 if narrow else width > 600
        for style, x, text in re.findall(r'<text style="([^"]*)" x="([-\d.]+)"[^>]*>([^<]*)<', svg):
            size = float(re.search(r"([\d.]+)px", style)[1])
            length = 0.6 * size * len(unescape(text))
            part = 1 if "anchor: end" in style else 0.5 if "anchor: middle" in style else 0
            assert float(x) - part * length > -2
            assert float(x) + (1 - part) * length < width + 2, text


def test_every_cell_has_a_label_for_telephones(fitted):
    router, _, dev = fitted
    html = report.render(e := measured(router, dev), e.to_json())
    cells = re.findall(r"<td[^>]*>", html)
    assert len(cells) > 50
    assert [cell for cell in cells if "data-label=" not in cell and "whole" not in cell] == []
    assert "overflow-x: auto" not in html.replace("overflow-x: auto; white-space: pre-wrap", "")


def test_labels_stand_at_their_dots_and_not_on_each_other():
    rng = np.random.default_rng(1)
    dots = [
        labels.Label(float(x), float(y), f"expert number {i}", "#000000")
        for i, (x, y) in enumerate(rng.uniform(0.1, 0.9, (9, 2)))
    ]
    with canvas.style():
        _, axes = canvas.axes(4.0, right=0.3)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        labels.annotate(axes, dots, [np.array([[0.0, 1.0], [0.0, 1.0]])], "#000000")
    scale = np.array(axes.get_window_extent().size)
    boxes = []
    for dot, text in zip(sorted(dots, key=lambda d: -d.y), axes.texts, strict=True):
        assert text.get_text() == dot.text
        far = (np.array(text.get_position()) - [dot.x, dot.y]) * scale
        assert np.hypot(*far) < 60
        x, y = np.array(text.get_position()) * scale
        width = len(dot.text) * labels.SIZE * labels.LETTER
        left = x if text.get_ha() == "left" else x - width
        boxes.append(labels.Box(left, y - 4, left + width, y + 4))
    assert not any(one.meets(other) for one, other in combinations(boxes, 2))


def test_names_of_a_telephone_are_in_the_order_of_their_dots():
    experts = {"qwen-7b-instruct": (0.62, 1e-5), "gpt-4o-mini-2024-07-18": (0.63, 1.2e-5),
               "gpt-4.1": (0.895, 9.8e-4), "gpt-4o": (0.9, 1e-3)}  # fmt: skip
    named = {name: {"quality": q, "cost": c} for name, (q, c) in experts.items()}
    single = {"name": "gpt-4o", **named["gpt-4o"]}
    references = {
        **{"best_single": single, "cheapest": single, "oracle": {"quality": 0.9, "cost": 9e-4}},
        "zero_router": [[1e-5, 0.62], [1e-3, 0.9]],
    }
    marks = [
        plots.Mark("default", 9.9e-4, 0.897, most=5e-4),
        plots.Mark("best", 1e-3, 0.9),
        plots.Mark("cheapest", 1e-5, 0.62),
        plots.Mark("frugal_with_checks", 9e-4, 0.89),
    ]
    figures = {"experts": named, "references": references}
    svg = plots.cost_quality(figures, marks=marks, narrow=True)
    texts = re.findall(r'id="[^"]*label-.*?<text[^>]* y="([-\d.]+)"[^>]*>([^<]*)<', svg, re.DOTALL)
    heights = {unescape(text): float(y) for y, text in texts}
    names = ["gpt-4o · best", "default", "gpt-4.1", "frugal_with_checks"]
    names += ["gpt-4o-min…024-07-18", "qwen-7b-instruct · cheapest"]
    assert [heights[name] for name in names] == sorted(heights[name] for name in names)


def test_names_that_are_cut_stay_different():
    names = ["Meta-Llama-3_1-8B-Instruct", "Meta-Llama-3-8B-Instruct", "org/Yi"]
    cut = [labels.short(name, names, 17) for name in names]
    assert len(set(cut)) == 3
    assert max(map(len, cut)) <= 17


def test_long_names_lose_their_organisation_only_if_that_is_unambiguous():
    mixtral = "mistralai/Mixtral-8x7B-Instruct-v0.1"
    assert labels.short(mixtral, [mixtral, "a/b"]) == "Mixtral-8x7B-Instruct-v0.1"
    assert labels.short("a/model", ["a/model", "b/model"]) == "a/model"
    assert len(labels.short("x" * 80, ["x" * 80])) == 26


def test_many_experts_still_have_a_label_each():
    names = [f"expert-{i}" for i in range(24)]
    rng = np.random.default_rng(0)
    experts = {
        n: {"quality": rng.uniform(0.3, 0.8), "cost": rng.uniform(1e-4, 1e-2)} for n in names
    }
    point = {"lambda": 0.0, "cost": 5e-3, "quality": 0.8, "quality_ci": [0.75, 0.85]}
    single = {"name": names[0], **experts[names[0]]}
    references = {
        "best_single": single,
        "cheapest": single,
        "oracle": {"quality": 0.9, "cost": 1e-3},
    }
    references["zero_router"] = [[e["cost"], e["quality"]] for e in list(experts.values())[:1]]
    svg = plots.cost_quality({"experts": experts, "references": references, "curve": [point]})
    assert all(f">{name}<" in svg or f">{name} · " in svg for name in names)
