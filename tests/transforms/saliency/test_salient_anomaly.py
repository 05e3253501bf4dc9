"""Where anomalies go that follow what is salient."""

import pytest
import torch
from PIL import Image

from anomalib_anoseg.transforms import CutPaste, HardCutPaste
from anomalib_anoseg.transforms.saliency import Saliency, move_to_salient


class _Corner(Saliency):
    """Finds the upper left quarter salient."""

    def estimate(self, image, paths):
        del paths
        saliency = torch.zeros(len(image), 1, 8, 8)
        saliency[..., :4, :4] = 1
        return saliency


@pytest.mark.parametrize("level", [0.0, 0.0005, 0.0015, 0.3, 1.0])
def test_points_stay_where_all_is_equally_salient_or_nothing(level):
    points = torch.rand(2, 3, 50, 2)
    torch.testing.assert_close(move_to_salient(points, torch.full((2, 1, 12, 20), level)), points)


def test_points_are_as_dense_as_the_image_is_salient():
    torch.manual_seed(0)
    saliency = torch.tensor([[0.0, 0.2, 0.4], [0.8, 0.0, 0.6]])[None, None]
    points = move_to_salient(torch.rand(1, 40_000, 2), saliency)
    x, y = (points[0, :, axis].mul(side).long() for axis, side in ((0, 3), (1, 2)))
    counts = torch.bincount(3 * y + x, minlength=6) / 40_000
    # Three standard deviations of a share of 0.4 among so many.
    torch.testing.assert_close(counts, saliency.flatten() / saliency.sum(), atol=0.0075, rtol=0)


def test_every_image_has_its_own_saliency():
    saliency = torch.zeros(2, 1, 4, 4)
    saliency[0, ..., :2], saliency[1, ..., 2:] = 1, 1
    left, right = move_to_salient(torch.rand(2, 100, 2), saliency)[..., 0]
    assert left.max() <= 0.5 <= right.min()


def test_the_ends_of_the_interval_lie_on_the_object():
    saliency = torch.zeros(1, 1, 64, 64)
    saliency[..., 20:30, 40:50] = 1
    points = move_to_salient(torch.tensor([[[0.0, 0.0], [1.0, 1.0]]]), saliency) * 64
    assert points.tolist() == [[[40.0, 20.0], [50.0, 30.0]]]


@pytest.mark.parametrize("transform", [CutPaste, HardCutPaste])
def test_patches_lie_on_the_object(transform):
    image = torch.rand(64, 3, 64, 64)
    small = {"area": (0.001, 0.002), "aspect": (1.0, 1.0)}
    on_object = transform(**small, saliency=_Corner()).manual_seed(0).forge(image).mask
    anywhere = transform(**small).manual_seed(0).forge(image).mask
    # A patch of 0.2 % has a half diagonal of 2 pixels.
    assert on_object.sum() == on_object[..., :34, :34].sum() > 0
    assert anywhere[..., :34, :34].sum() < anywhere.sum() / 2


def test_images_without_an_object_get_patches_anywhere():
    image = torch.rand(8, 3, 64, 64)
    forged, mask = CutPaste(saliency="border_contrast").manual_seed(0).forge(image)
    plain, plain_mask = CutPaste().manual_seed(0).forge(image)
    assert torch.equal(forged, plain)
    assert torch.equal(mask, plain_mask)


def test_a_folder_of_maps_is_looked_up_by_path_and_replay_needs_none(tmp_path):
    image = torch.rand(2, 3, 32, 32)
    for name, box in (("a", (0, 0, 16, 16)), ("b", (16, 16, 32, 32))):
        picture = Image.new("L", (32, 32))
        picture.paste(255, box)
        picture.save(tmp_path / f"{name}.png")
    transform = CutPaste(area=(0.001, 0.001), aspect=(1.0, 1.0), saliency=str(tmp_path)).manual_seed(0)
    forged = transform.forge(image, paths=["good/a.jpg", "good/b.jpg"])
    first, second = forged.mask.nonzero()[:, 0].eq(0), forged.mask.nonzero()[:, 2:]
    assert second[first].max() <= 17
    assert second[~first].min() >= 14
    assert torch.equal(transform.forge(image, params=transform._params).image, forged.image)
    with pytest.raises(ValueError, match=r"pass paths=batch\.image_path, or use an estimator"):
        transform.forge(image)


@pytest.mark.parametrize("saliency", ["border_contrast", "spectral_residual"])
def test_images_that_are_not_rgb_are_refused(saliency):
    with pytest.raises(
        ValueError, match=r"from RGB images, \(B, 3, H, W\), got \(2, 1, 32, 32\): repeat their channel"
    ):
        CutPaste(saliency=saliency).forge(torch.rand(2, 1, 32, 32))


def test_an_unknown_estimator_names_those_there_are():
    with pytest.raises(FileNotFoundError, match=r"nor an estimator of that name: these are none, spectral_residual, "):
        CutPaste(saliency="contrast").forge(torch.rand(1, 3, 32, 32), paths=["good/a.jpg"])
