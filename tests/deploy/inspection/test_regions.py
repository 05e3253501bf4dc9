"""Regions, counted by hand."""

import numpy as np

from anomalib_anoseg.deploy.inspection.regions import find_regions


def test_regions_are_those_that_one_counts_by_hand():
    scores = np.zeros((8, 10), np.float32)
    scores[1, 2:5] = 0.6, 0.7, 0.8
    scores[2, 5] = 0.9  # touches at a corner
    scores[5:8, 0:2] = 0.75
    scores[6, 0] = 0.95
    mask = scores > 0.5
    scores[0, 0] = 1.0  # outside of the mask, within no box
    scores[1, 5] = 1.0  # outside of the mask, within a box
    lower, upper = find_regions(mask, scores)
    assert lower == {"box": [0, 5, 2, 8], "area": 6, "centroid": [0.5, 6.0], "peak": 0.95, "peak_at": [0, 6]}
    assert upper == {"box": [2, 1, 6, 3], "area": 4, "centroid": [3.5, 1.25], "peak": 0.9, "peak_at": [5, 2]}


def test_no_region_and_nothing_but_region():
    scores = np.ones((2, 3), np.float32)
    assert find_regions(scores > 2, scores) == []
    assert [region["box"] for region in find_regions(scores > 0, scores)] == [[0, 0, 3, 2]]
