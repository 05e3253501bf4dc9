"""Anomalies that alter an image in place: each does what its name says, and the mask says where."""

import pytest
import torch

from anomalib_anoseg.transforms import Cracks, LocalBlur, LocalShade, LocalWarp, MissingPart
from anomalib_anoseg.transforms.saliency import Saliency

KINDS = [Cracks, MissingPart, LocalWarp, LocalShade, LocalBlur]
BATCH = 16


class Middle(Saliency):
    """Finds the middle of every image salient."""

    def estimate(self, image, paths):
        del paths
        found, (row, column) = torch.zeros_like(image[:, :1]), (side // 2 for side in image.shape[-2:])
        found[..., row - 4 : row + 4, column - 4 : column + 4] = 1
        return found


def framed(side=64, frame=20):
    """Return bright squares on a dark ground."""
    image = torch.full((BATCH, 3, side, side), 0.2)
    image[..., frame:-frame, frame:-frame] = 0.8
    return image


@pytest.mark.parametrize("kind", KINDS)
def test_mask_marks_exactly_what_can_be_seen_and_nothing_else_changes(kind):
    image = torch.rand(BATCH, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    forged, mask = kind().manual_seed(0).forge(image)
    assert torch.equal(mask.bool(), ((forged - image).abs() > 3 / 255).any(1, keepdim=True))
    assert torch.equal(torch.where(mask.bool(), image, forged), image)
    assert mask.flatten(1).any(1).all()
    assert (mask.flatten(1).mean(1) < 0.7).all()


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_exceed_the_range_are_no_anomaly(kind):
    # As bicubic resizing leaves them at edges.
    image = torch.rand(BATCH, 3, 48, 64, generator=torch.Generator().manual_seed(0)) * 1.1 - 0.05
    forged, mask = kind().manual_seed(0).forge(image)
    within = kind().manual_seed(0).forge(image.clamp(0, 1)).mask
    assert abs(mask.mean() - within.mean()) < 0.01
    assert torch.equal(torch.where(mask.bool(), image, forged), image)


@pytest.mark.parametrize("kind", KINDS)
def test_lies_where_the_object_is(kind):
    image = torch.rand(BATCH, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    limits = {"length": (0.1, 0.2)} if kind is Cracks else {"area": (0.005, 0.01)}
    mask = kind(saliency=Middle(), **limits).manual_seed(0).forge(image).mask.mean((0, 1))
    assert mask[20:44, 20:44].sum() > 0.9 * mask.sum()


def test_cracks_are_thin_and_branch():
    image = torch.full((BATCH, 3, 128, 128), 0.5)
    plain, branched = (
        Cracks(length=(0.4, 0.4), width=(0.02, 0.02), branches=count, light_p=0.0, saliency=Middle())
        .manual_seed(0)
        .forge(image)
        .mask.flatten(1)
        .sum(1)
        for count in (0, 6)
    )
    assert (plain < 0.4 * 128 * (0.02 * 128 + 2)).all()  # its length times its width, with smooth rims
    assert (plain > 0.4 * 128 * 0.5).all()
    assert branched.mean() > 1.5 * plain.mean()


@pytest.mark.parametrize("light_p", [0.0, 1.0])
@pytest.mark.parametrize("kind", [Cracks, LocalShade])
def test_darkens_or_lightens(kind, light_p):
    image = torch.full((BATCH, 3, 32, 32), 0.5)
    forged, mask = kind(light_p=light_p).manual_seed(0).forge(image)
    change = (forged - image)[mask.expand_as(image) == 1]
    assert (change > 0).all() if light_p else (change < 0).all()


def test_where_a_part_is_missing_the_border_shows():
    image = framed()
    forged, mask = MissingPart((0.01, 0.03), (0.0, 0.0), (1.0, 1.0), saliency=Middle()).manual_seed(0).forge(image)
    assert mask.flatten(1).any(1).all()
    torch.testing.assert_close(forged[mask.expand_as(image) == 1], torch.tensor(0.2).expand(int(3 * mask.sum())))


def test_a_warp_moves_pixels_no_further_than_its_push():
    ramp = torch.linspace(0, 1, 128).expand(BATCH, 3, 128, 128).contiguous()
    forged, mask = LocalWarp((0.05, 0.05), strength=(0.5, 0.5), saliency=Middle()).manual_seed(0).forge(ramp)
    pixels = (forged - ramp).abs().max() * 127
    radius = (0.05 * 128**2 / torch.pi) ** 0.5
    assert 0.3 * radius < pixels <= 0.5 * radius + 1e-3
    assert not LocalWarp().forge(torch.full((2, 3, 32, 32), 0.5)).mask.any()
    assert mask.any()


def test_a_larger_area_marks_more():
    image = torch.full((BATCH, 3, 64, 64), 0.5)
    small, large = (
        LocalShade((area, area), (0.0, 0.0), saliency=Middle()).manual_seed(0).forge(image).mask.mean()
        for area in (0.02, 0.08)
    )
    assert 0.01 < small < 0.04
    assert 0.05 < large < 0.13


def test_blur_averages_noise_out():
    image = torch.rand(BATCH, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    blur = LocalBlur((0.1, 0.1), (0.0, 0.0), (1.0, 1.0), saliency=Middle()).manual_seed(0)
    forged, mask = blur.forge(image)
    inside = mask.expand_as(image) == 1
    assert forged[inside].std() < 0.5 * image[inside].std()


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (LocalShade, {"area": (0.0, 0.1)}, "area must"),
        (LocalShade, {"tint": 2.0}, "tint must"),
        (LocalWarp, {"strength": (0.5, 1.5)}, "strength must"),
        (MissingPart, {"softness": (0.5, 0.2)}, "softness must"),
        (Cracks, {"branches": 9}, "branches must"),
        (Cracks, {"width": (0.01, 0.2)}, "width must"),
    ],
)
def test_refuses_what_is_out_of_bounds(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)
