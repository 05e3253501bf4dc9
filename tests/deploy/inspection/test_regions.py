"""Regions, counted by hand and by scikit-image."""

import numpy as np
import pytest
from PIL import Image
from skimage.measure import label, regionprops

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


@pytest.mark.parametrize("grain", [1, 3, 12])
@pytest.mark.parametrize("share", [0.05, 0.3, 0.5])
def test_regions_are_those_of_scikit_image(grain, share):
    """Noise has areas within areas, at the border and at corners; scores of two digits have equal peaks."""
    stream = np.random.default_rng(grain)
    noise = Image.fromarray(stream.random((97 // grain + 2, 131 // grain + 2), np.float32))
    scores = np.asarray(noise.resize((131, 97), Image.Resampling.BILINEAR)).round(2)
    mask = scores > np.quantile(scores, 1 - share)
    assert find_regions(mask, scores) == expected(mask, scores)


def test_a_snail_is_one_region():
    mask = np.zeros((61, 61), bool)
    row, column, step = 0, 0, (0, 1)
    mask[row, column] = True
    for length in [60, *np.repeat(np.arange(60, 0, -2), 2)]:
        for _ in range(length):
            row, column = row + step[0], column + step[1]
            mask[row, column] = True
        step = (step[1], -step[0])
    scores = np.random.default_rng(0).random(mask.shape, np.float32)
    assert len(find_regions(mask, scores)) == 1
    assert find_regions(mask, scores) == expected(mask, scores)
    assert find_regions(mask[::-1, ::-1], scores) == expected(mask[::-1, ::-1], scores)


def expected(mask, scores):
    found = []
    for region in regionprops(label(mask, connectivity=2), intensity_image=scores):
        top, left, bottom, right = region.bbox
        inside = np.where(region.image, region.image_intensity, -np.inf)
        row, column = np.unravel_index(inside.argmax(), inside.shape)
        found.append({
            "box": [left, top, right, bottom],
            "area": int(region.area),
            "centroid": [round(float(mean), 2) for mean in region.centroid[::-1]],
            "peak": float(str(inside[row, column].astype(np.float32))),
            "peak_at": [left + int(column), top + int(row)],
        })
    return sorted(found, key=lambda region: -region["peak"])
