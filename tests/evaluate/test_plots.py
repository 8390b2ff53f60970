"""Plots are well-formed, complete, accessible SVG."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from babelclip.errors import BabelclipError
from babelclip.evaluate.plots import _y_ticks, bar_chart, line_chart
from babelclip.evaluate.svg import ticks

SVG = "{http://www.w3.org/2000/svg}"
SERIES = {"before & after <ridge>": {"en": 0.5, "sv": 0.2, "ar": None}, "student": {"en": 0.6, "sv": 0.3, "ar": 0.4}}


def parsed(text):
    return ElementTree.fromstring(text)


def bars(root):
    return [rect for rect in root.iter(f"{SVG}rect") if rect.find(f"{SVG}title") is not None]


def texts(root):
    return ["".join(item.itertext()) for item in root.iter(f"{SVG}text")]


def test_a_bar_stands_for_every_value_and_none_for_a_gap():
    root = parsed(bar_chart(SERIES, title="R@10", untaught=["ar"], references={"chance": 0.04}))
    tips = [bar.find(f"{SVG}title").text for bar in bars(root)]
    assert len(tips) == 5
    assert "Swedish (sv), student: 30.0" in tips
    assert {"English", "Swedish", "Arabic*", "chance", "before & after <ridge>"} <= set(texts(root))
    widths = {tip: float(bar.get("width")) for tip, bar in zip(tips, bars(root), strict=True)}
    assert widths["English (en), student: 60.0"] == pytest.approx(2 * widths["Swedish (sv), student: 30.0"], abs=0.2)


def test_every_plot_names_and_describes_itself():
    for text in (bar_chart(SERIES, title="A & B"), line_chart({"loss": ([0, 1], [2.0, 1.0])}, title="A & B")):
        root = parsed(text)
        assert root.get("role") == "img"
        named = {item.get("id"): item.text for item in root if item.get("id")}
        assert set(root.get("aria-labelledby").split()) == set(named)
        assert "A & B" in named.values()
        assert all(named.values())


def test_two_plots_on_a_page_share_no_id_and_a_rerun_is_equal():
    first, second = bar_chart(SERIES, title="one"), bar_chart(SERIES, title="two")
    ids = [{item.get("id") for item in parsed(text) if item.get("id")} for text in (first, second)]
    assert not ids[0] & ids[1]
    assert bar_chart(SERIES, title="one") == first


def test_many_languages_go_into_two_columns_that_stay_inside():
    from babelclip.languages import known

    codes = list(known())[:45]
    root = parsed(bar_chart({"a": dict.fromkeys(codes, 0.5)}, title="many", references={"chance": 0.1}))
    assert len({round(float(bar.get("x"))) for bar in bars(root)}) == 2
    width, height = (float(part) for part in root.get("viewBox").split()[2:])
    assert all(float(bar.get("x")) + float(bar.get("width")) <= width for bar in bars(root))
    assert all(float(bar.get("y")) < height for bar in bars(root))
    assert texts(root).count("chance") == 2


def test_curves_break_where_a_value_is_not_finite_and_single_points_show():
    text = line_chart(
        {"loss": ([0, 1, 2, 3, 4], [3.0, 2.0, math.nan, 1.0, math.inf])},
        title="loss",
        references={"trivial predictor": 2.5},
    )
    root = parsed(text)
    assert len(list(root.iter(f"{SVG}polyline"))) == 1
    assert len(list(root.iter(f"{SVG}circle"))) == 1
    assert "trivial predictor" in texts(root)
    assert "nan" not in text
    assert "loss goes from 3 to 1" in text


def test_on_a_log_axis_equal_factors_are_equal_distances():
    root = parsed(line_chart({"loss": ([0, 1, 2, 3], [100.0, 10.0, 1.0, 0.0])}, title="loss", log_y=True))
    [line] = root.iter(f"{SVG}polyline")
    heights = [float(point.split(",")[1]) for point in line.get("points").split()]
    assert len(heights) == 3
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.2)
    assert "loss (log scale)" in texts(root)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: bar_chart({}, title="x"),
        lambda: bar_chart({"a": {"en": None}}, title="x"),
        lambda: bar_chart({"a": {"en": math.nan}}, title="x"),
        lambda: line_chart({}, title="x"),
        lambda: line_chart({"a": ([0], [math.nan])}, title="x"),
        lambda: line_chart({"a": ([0], [-1.0])}, title="x", log_y=True),
        lambda: line_chart({"a": ([0, 1], [1.0])}, title="x"),
    ],
)
def test_nothing_to_draw_is_an_error_that_says_so(draw):
    with pytest.raises(BabelclipError):
        draw()


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 9))
def test_ticks_are_few_ascending_and_cover_the_range(low, span, wanted):
    marks = ticks(low, low + span, wanted)
    assert marks == sorted(set(marks))
    assert 2 <= len(marks) <= wanted + 3
    slack = 1e-6 * max(1.0, abs(low), span)
    assert marks[0] <= low + slack
    assert marks[-1] >= low + span - slack


@given(st.lists(st.floats(1e-8, 1e8), min_size=1, max_size=5))
def test_log_ticks_cover_the_values(values):
    ticks = _y_ticks(values, log_y=True)
    assert ticks == sorted(set(ticks))
    assert len(ticks) >= 2
    assert ticks[0] <= min(values) * 1.01
    assert ticks[-1] >= max(values) * 0.99
