"""Pixel-wise losses against values worked out by hand."""

import math

import pytest
import torch

from anomalib_anoseg.models.pixel_loss import pixel_loss

MASK = torch.tensor([1.0, 0, 0, 0]).view(1, 1, 2, 2)
LOGITS = torch.logit(torch.tensor([0.6, 0.1, 0.2, 0.3])).view(1, 1, 2, 2)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("l1", (0.4 + 0.1 + 0.2 + 0.3) / 4),
        ("balanced_l1", (0.4 + (0.1 + 0.2 + 0.3) / 3) / 2),
        ("balanced_cross_entropy", -(math.log(0.6) + (math.log(0.9) + math.log(0.8) + math.log(0.7)) / 3) / 2),
        ("cross_entropy", -(math.log(0.6) + math.log(0.9) + math.log(0.8) + math.log(0.7)) / 4),
    ],
)
def test_pixel_loss(form, expected):
    assert pixel_loss(LOGITS, MASK, form).item() == pytest.approx(expected, abs=1e-5)


def test_plain_l1_prefers_the_constant_normal_map_and_balanced_l1_does_not():
    mask = torch.zeros(1, 1, 10, 10)
    mask[..., :2, :2] = 1
    values = {
        form: [pixel_loss(torch.full_like(mask, value), mask, form).item() for value in (-9.0, 0.0, 9.0)]
        for form in ("l1", "balanced_l1")
    }
    assert values["l1"][0] < values["l1"][1] < values["l1"][2]
    assert values["balanced_l1"] == pytest.approx([0.5, 0.5, 0.5], abs=1e-4)
