"""Charts: values in, SVG out."""

from __future__ import annotations

import re

from pipeline.charts import line_chart


def test_chart_scales_to_its_values() -> None:
    svg = str(line_chart({"a<b": [3.0, 1.0, 2.0], "flat": [1.0, 1.0, 1.0]}))
    assert "a&lt;b" in svg
    first = re.findall(r'points="([^"]*)"', svg)[0].split()
    heights = [float(p.split(",")[1]) for p in first]
    assert heights[0] < heights[2] < heights[1]
    assert "<svg" in str(line_chart({"constant": [1.0]}))
