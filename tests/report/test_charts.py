"""Charts: values in, SVG out."""

from __future__ import annotations

import re

import numpy as np
import pytest

from pipeline.report.charts import class_histogram, line_chart, scatter, score_histogram


def test_chart_scales_to_its_values() -> None:
    svg = str(line_chart({"a<b": [3.0, 1.0, 2.0], "flat": [1.0, 1.0, 1.0]}))
    assert "a&lt;b" in svg
    first = re.findall(r'points="([^"]*)"', svg)[0].split()
    heights = [float(p.split(",")[1]) for p in first]
    assert heights[0] < heights[2] < heights[1]
    assert "<svg" in str(line_chart({"constant": [1.0]}))


POINTS = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 1.0], [4.0, 1.0]])


def starts(svg: str) -> list[list[tuple[float, float]]]:
    """The first points of the markers of each class, without the legend's."""
    paths = re.findall(r'<path d="([^"]*)" fill="#\w+" fill-opacity', svg)
    return [
        [(float(x), float(y)) for x, y in re.findall(r"M(-?[\d.]+),(-?[\d.]+)", path)]
        for path in paths
    ]


def test_points_are_placed_to_one_scale_and_inside() -> None:
    svg = str(scatter(POINTS, [0, 0, 0, 0], {0: "a"}, title="t"))
    ((a, b, c, d),) = starts(svg)
    assert b[0] - a[0] == pytest.approx(4 * (c[1] - a[1]), abs=0.5)
    assert (d[0], d[1]) == (b[0], c[1])
    assert all(0 < x < 390 and 0 < y < 360 for x, y in (a, b, c, d))


def test_points_have_the_colour_and_marker_of_their_class() -> None:
    svg = str(scatter(POINTS, [0, 1, 1, 13], {0: "a", 1: "b", 2: "nobody", 13: "c"}, title="t"))
    assert [len(part) for part in starts(svg)] == [1, 2, 1]
    shapes = re.findall(r'<path d="([^"]*)" fill="(#\w+)" fill-opacity', svg)
    assert shapes[1][1] == shapes[2][1] != shapes[0][1]  # 1 and 13 share a colour
    assert shapes[1][0].count("v") == 2  # two squares
    assert "v" not in shapes[2][0]
    assert "nobody" not in svg


def test_a_scatter_is_escaped_and_named() -> None:
    svg = str(scatter(POINTS, [0] * 4, {0: "<b>" + "x" * 40}, title='"><i>'))
    assert "<b>" not in svg
    assert "<i>" not in svg
    assert 'role="img"' in svg
    assert "x" * 40 in svg  # the tooltip has the whole name


def test_a_long_legend_makes_the_picture_higher() -> None:
    numbers = list(range(40))
    svg = str(
        scatter(
            np.random.default_rng(0).random((40, 2)),
            numbers,
            dict.fromkeys(numbers, "n"),
            title="t",
        )
    )
    height = int(re.findall(r'viewBox="0 0 \d+ (\d+)"', svg)[0])
    assert max(int(y) for y in re.findall(r'<text x="\d+" y="(\d+)"', svg)) < height


def test_points_in_one_place_and_no_points() -> None:
    ((first, second),) = starts(str(scatter(np.ones((2, 2)), [0, 0], {0: "a"}, title="t")))
    assert first == second
    with pytest.raises(ValueError, match="not"):
        scatter(np.zeros((0, 2)), [], {}, title="t")


def test_a_histogram_counts_both_sides_of_the_limit() -> None:
    svg = str(score_histogram(np.array([-1.0, 0.0, 0.0, 3.0]), np.array([0.0, 1.0]), 0.5))
    assert "3 called normal" in svg
    assert "1 above the limit" in svg
    assert "2 normal references" in svg
    assert "limit 0.5" in svg
    assert len(re.findall(r'fill="#\w+"/>', svg)) == 2


def test_an_infinite_limit_has_no_line() -> None:
    svg = str(score_histogram(np.array([1.0, 1.0]), np.zeros(0), -np.inf))
    assert "limit -inf" not in svg
    assert svg.count("<line") == 1
    assert "2 above the limit" in svg
    with pytest.raises(ValueError, match="scores"):
        score_histogram(np.zeros(0), np.zeros(0), 0.0)


def test_a_histogram_stacks_classes() -> None:
    names = {0: "normal", 1: "<b>", 2: "nobody"}
    svg = str(class_histogram(np.array([0.0, 0.0, 1.0, 0.0]), [0, 1, 1, 0], names, title="t"))
    assert "<b>" not in svg
    assert "nobody" not in svg
    bars = re.findall(r'<path d="([^"]*)" fill="#\w+"><title>', svg)
    boxes = [re.findall(r"M([\d.]+),([\d.]+)H[\d.]+v([\d.]+)", bar) for bar in bars]
    ((x, top, tall),) = boxes[0]
    low, high = boxes[1]
    assert float(tall) == pytest.approx(2 * float(low[2]), abs=0.2)
    assert low[0] == x  # above the bar of class 0, not before it
    assert float(low[1]) == pytest.approx(float(top) - float(low[2]), abs=0.2)
    assert float(high[0]) > float(x)
    with pytest.raises(ValueError, match="scores"):
        class_histogram(np.zeros(0), [], {}, title="t")
