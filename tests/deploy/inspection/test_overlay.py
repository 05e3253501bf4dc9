"""What a person sees on an overlay."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from anomalib_anoseg.deploy.inspection.overlay import MARK, _outline, draw_overlay
from anomalib_anoseg.deploy.inspection.session import Session

from .conftest import make_picture


@pytest.fixture
def overlay(model):
    def draw(bright):
        picture, session = make_picture(0.2, (120, 80), bright, (40, 20, 80, 60)), Session(model)
        return np.asarray(picture).astype(int), np.asarray(
            draw_overlay(picture, session.judge(picture), session.decision)
        )

    return draw


def test_a_defect_is_tinted_and_outlined_in_place(overlay):
    picture, drawn = overlay(0.8)
    assert drawn.shape[:2] > picture.shape[:2] == (80, 120)
    assert drawn[40, 60] == pytest.approx(0.65 * picture[40, 60] + 0.35 * np.array(MARK), abs=1)
    marked = (drawn[:80] == MARK).all(-1)
    assert marked[40, 38:43].any() and marked[40, 77:82].any()  # the edges, to two pixels
    assert marked[18:23, 60].any() and marked[57:62, 60].any()
    far = np.ones((80, 120), bool)
    far[16:64, 36:84] = False
    assert np.array_equal(drawn[:80][far], picture[far])


def test_a_normal_picture_stays_and_the_text_below_says_so(overlay):
    picture, drawn = overlay(None)
    assert np.array_equal(drawn[:80], picture)
    below = drawn[80:].reshape(-1, 3)
    assert (below == (255, 255, 255)).all(-1).any()
    assert below.min() < 100  # the text, in black
    assert (below == below[:, :1]).all()
    assert (drawn[80:, -2:] == 255).all()  # it fits
    bad = overlay(0.8)[1][80:].astype(int)
    assert (bad[..., 0] - bad[..., 1]).max() > 150  # in the colour of the marks


@pytest.mark.parametrize("reach", [1, 3, 10])
def test_an_outline_is_as_thick_as_asked_and_closes_at_the_border(reach):
    mask = np.zeros((60, 90), bool)
    mask[20:45, 30:70] = mask[:30, :8] = mask[55, 80] = mask[0, 89] = True
    marked = np.asarray(_outline(Image.fromarray(mask), reach)) > 0
    size = 2 * reach + 1
    grown = ndimage.maximum_filter(mask, size, mode="constant")
    assert np.array_equal(marked, grown & ~ndimage.minimum_filter(mask, size, mode="constant"))
    assert marked[0, 2] and marked[10, 0] and marked[0, 89]
