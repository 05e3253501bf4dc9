"""The image score of a map: against its definition, and what it must never do."""

import numpy as np
import pytest
import torch

from anomalib_anoseg.models.image_score import score_map


def test_the_maximum_needs_more_than_one_hot_pixel():
    cold, hot_pixel, blob = torch.zeros(3, 1, 64, 64)
    hot_pixel[0, 30, 30], blob[0, 20:41, 20:41] = 1, 1
    assert score_map(torch.stack((cold, hot_pixel, blob)), 21).tolist() == pytest.approx([0, 1 / 441, 1])
    assert score_map(hot_pixel[None], 1).item() == 1


def test_the_maximum_is_that_of_the_averages():
    maps = torch.rand(3, 1, 33, 35, generator=torch.Generator().manual_seed(0))
    padded = np.pad(maps[:, 0].numpy(), ((0, 0), (2, 2), (2, 2)))
    averages = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2)).mean((-2, -1))
    np.testing.assert_allclose(score_map(maps, 5), averages.max((1, 2)), rtol=1e-5)


def test_no_value_that_rises_lowers_the_score():
    maps = torch.rand(2, 1, 32, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (gradient,) = torch.autograd.grad(score_map(maps, 5).sum(), maps)
    assert gradient.min() >= 0 and gradient.amax((1, 2, 3)).min() > 0
    assert score_map(torch.ones(1, 1, 32, 32), 5).item() > score_map(torch.zeros(1, 1, 32, 32), 5).item()


def test_neither_batch_nor_place_matters():
    maps = torch.zeros(2, 1, 64, 64)
    maps[0, :, 20:30, 20:26], maps[1, :, 5:9, 40:44] = 0.8, 0.3
    scores = score_map(maps, 5)
    assert torch.equal(scores[1:], score_map(maps[1:], 5))
    torch.testing.assert_close(score_map(maps.roll((7, -9), (2, 3)), 5), scores)
