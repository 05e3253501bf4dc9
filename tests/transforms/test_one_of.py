"""Anomalies of several kinds in one batch."""

import pytest
import torch

from anomalib_anoseg.transforms import CutPaste, DraemPerlin, HardCutPaste, OneOf, SaliencyPerlin
from anomalib_anoseg.transforms.base import under_prefix
from anomalib_anoseg.transforms.saliency import Saliency


class _ByFile(Saliency):
    """Finds the left half salient of files that say so, and nothing known of other ones."""

    def __init__(self):
        super().__init__()
        self.checked = []

    def estimate(self, image, paths):
        left = torch.zeros(len(image), 1, 8, 8)
        left[[path == "left" for path in paths or [""] * len(image)], ..., :4] = 1
        return left

    def check_paths(self, paths):
        self.checked.append(paths)


def test_every_image_is_what_its_own_transform_makes():
    kinds, image = [CutPaste(), DraemPerlin(p=1.0)], torch.rand(8, 3, 32, 32)
    both = OneOf(kinds).manual_seed(0)
    forged, mask = both.forge(image)
    drawn = both._params
    alone = [kind.forge(image, under_prefix(f"{number}.", drawn)) for number, kind in enumerate(kinds)]
    assert sorted(drawn["kind"].tolist()) == [0] * 4 + [1] * 4
    for index, number in enumerate(drawn["kind"].tolist()):
        assert torch.equal(forged[index], alone[number].image[index])
        assert torch.equal(mask[index], alone[number].mask[index])


@pytest.mark.parametrize(("weights", "counts"), [((3, 1), [6, 2]), ((0.0, 1.0), [0, 8]), ((2, 0), [8, 0])])
def test_kinds_are_spread_by_their_weights(weights, counts):
    both = OneOf([CutPaste(), CutPaste()], weights).manual_seed(0)
    for _ in range(5):
        both(torch.rand(8, 3, 16, 16))
        assert both._params["kind"].bincount(minlength=2).tolist() == counts


def test_which_image_gets_which_kind_is_chance():
    both = OneOf([CutPaste(), CutPaste()]).manual_seed(0)
    drawn = []
    for _ in range(200):
        both(torch.rand(2, 3, 8, 8))
        drawn.append(both._params["kind"])
    assert 70 < torch.stack(drawn)[:, 0].sum() < 130


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_images_that_a_kind_turns_are_turned_before_and_marked_where_they_differ(p):
    both, image = (
        OneOf([CutPaste(), SaliencyPerlin(rotation_p=1.0, p=0.5)], p=p).manual_seed(0),
        torch.rand(8, 3, 32, 32),
    )
    forged, mask = both.forge(image)
    normal = both.turn(image)
    assert torch.equal(torch.where(mask == 1, normal, forged), normal)
    is_turned = (normal != image).flatten(1).any(1)
    assert torch.equal(is_turned, (both._params["kind"] == 1) & (both._params["batch_prob"] > 0.5))
    assert bool(mask.any()) == (p > 0)


def test_every_kind_gets_the_files_and_checks_them():
    saliency = _ByFile()
    both = OneOf([CutPaste((0.001, 0.002), saliency=saliency), SaliencyPerlin(saliency, rotation_p=0.0, p=1.0)])
    both.check_paths(["left"])
    assert saliency.checked == [["left"]] * 2
    mask = both.manual_seed(0).forge(torch.rand(32, 3, 64, 64), paths=["left"] * 32).mask
    assert mask[..., :36].sum() == mask.sum() > 0


def test_transforms_within_others_follow_to_a_device():
    for outer in (OneOf([DraemPerlin()]), HardCutPaste(), OneOf([HardCutPaste()])):
        outer.set_rng_device_and_dtype(torch.device("meta"), torch.float32)
        within = [part for part in outer.modules() if hasattr(part, "forward_parameters")]
        assert len(within) > 1
        assert {part.device.type for part in within} == {"meta"}


@pytest.mark.parametrize(
    ("kinds", "weights", "message"),
    [
        ([], None, "kinds must hold a transform for each of weights, got 0 and 0"),
        ([CutPaste()], (1, 1), "kinds must hold a transform for each of weights, got 1 and 2"),
        ([CutPaste(), CutPaste()], (1, -1), r"weights must be 0 or more, and not all 0, got \(1, -1\)"),
        ([CutPaste()], (0,), r"weights must be 0 or more, and not all 0, got \(0,\)"),
    ],
)
def test_refuses_weights_that_do_not_fit(kinds, weights, message):
    with pytest.raises(ValueError, match=message):
        OneOf(kinds, weights)
