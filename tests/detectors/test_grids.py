from __future__ import annotations

import pytest

from pipeline.detectors.grids import median_aspect


def test_the_aspect_of_a_set_is_that_of_most_of_its_images():
    assert median_aspect([(64, 64)] * 3) == 1
    assert median_aspect([(100, 300), (300, 100), (100, 200), (100, 200), (1, 9)]) == 0.5
    assert median_aspect([(200, 300)]) == 0.667
    with pytest.raises(ValueError, match="no median"):
        median_aspect([])
