"""Anomalies of several kinds in one batch."""

import pytest
import torch
from kornia.augmentation import AugmentationSequential

from anomalib_anoseg.transforms import (
    BatchTextures,
    Cracks,
    CutPaste,
    DraemPerlin,
    HardCutPaste,
    OneOf,
    SaliencyPerlin,
    cut_paste,
)
from anomalib_anoseg.transforms._tensors import under_prefix
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


def test_every_image_is_what_its_own_transform_makes_and_its_gate_lets_through():
    kinds, image = [CutPaste(p=0.5), SaliencyPerlin(rotation_p=0.5, p=0.5)], torch.rand(32, 3, 32, 32)
    both = OneOf(kinds).manual_seed(0)
    forged, mask = both.forge(image)
    drawn = both._params
    alone = [kind.forge(image, under_prefix(f"{number}.", drawn)) for number, kind in enumerate(kinds)]
    assert sorted(drawn["kind"].tolist()) == [0] * 16 + [1] * 16
    for index, number in enumerate(drawn["kind"].tolist()):
        assert torch.equal(forged[index], alone[number].image[index])
        assert torch.equal(mask[index], alone[number].mask[index])
        assert drawn[f"{number}.batch_prob"][index] or not mask[index].any()
    for number in range(2):
        of_kind = mask[drawn["kind"] == number].flatten(1).any(1)
        assert 2 < of_kind.sum() < 14


def test_a_transform_that_needs_no_batch_runs_on_no_more_images_than_its_share(monkeypatch):
    seen, alter = [], Cracks.alter
    monkeypatch.setattr(Cracks, "alter", lambda *given: seen.append(len(given[1])) or alter(*given))
    kinds, image, counts = [CutPaste(), Cracks()], torch.rand(10, 3, 32, 32), set()
    both = OneOf(kinds, [3, 1], names=["patches", "cracks"]).manual_seed(0)
    for _ in range(6):  # a share of 2.5 images: two or three get cracks, so that one place may stay unused
        seen.clear()
        forged, mask = both.forge(image)
        assert seen == [3]
        drawn = both._params
        alone = [kind.forge(image, under_prefix(f"{number}.", drawn)) for number, kind in enumerate(kinds)]
        for index, number in enumerate(drawn["kind"].tolist()):
            torch.testing.assert_close(forged[index], alone[number].image[index])
            assert torch.equal(mask[index], alone[number].mask[index])
        assert both.name_kinds() == [both.names[number] for number in drawn["kind"]]
        counts.add(both.name_kinds().count("cracks"))
    assert counts == {2, 3}


def test_patches_run_on_no_more_images_than_their_share_unless_they_are_cut_from_other_images(monkeypatch):
    seen, paste = [], cut_paste._paste
    monkeypatch.setattr(cut_paste, "_paste", lambda *given: seen.append(len(given[0])) or paste(*given))
    image = torch.rand(8, 3, 32, 32)
    for source, count in ((), 4), ([SaliencyPerlin(rotation_p=0.0)], 8):
        both, seen[:] = OneOf([CutPaste(source=source), DraemPerlin(p=1.0)]).manual_seed(0), []
        forged, mask = both.forge(image)
        assert seen == [count]
        whole = both.kinds[0].forge(image, under_prefix("0.", both._params))
        is_own = both._params["kind"] == 0
        assert torch.equal(forged[is_own], whole.image[is_own])
        assert torch.equal(mask[is_own], whole.mask[is_own])


def test_noise_runs_on_no_more_images_than_its_share_and_shows_any_of_the_batch():
    seen, shown = [], set()

    class Watched(BatchTextures):
        def look_up(self, image, params):
            seen.append(len(image))
            shown.update((params["index"] * len(params["batch"])).long().tolist())
            return super().look_up(image, params)

    both = OneOf([CutPaste(), SaliencyPerlin(textures=Watched())], [3, 1]).manual_seed(0)
    for _ in range(20):
        both.forge(torch.rand(8, 3, 32, 32))
    assert seen == [2] * 20
    assert shown == set(range(8))


def test_a_kind_without_weight_gets_no_images():
    kinds = [CutPaste(), CutPaste(saliency="border_contrast"), Cracks(saliency="spectral_residual")]
    assert OneOf(kinds, [1, 0, 0]).forge(torch.rand(4, 3, 32, 32)).mask.flatten(1).any(1).all()


def test_masks_go_where_their_images_go():
    mask = torch.zeros(8, 1, 32, 32)
    mask[:, :, :10, 5:20] = 1
    both = OneOf([CutPaste(p=0.5), SaliencyPerlin(rotation_p=1.0, p=0.5)])
    image, moved = AugmentationSequential(both, data_keys=["input", "mask"])(mask.expand(-1, 3, -1, -1), mask)
    marked = both.transform_masks(torch.zeros_like(mask)) == 1
    assert moved[marked].all()
    assert torch.equal(image[:, :1].round()[~marked], moved[~marked])
    assert torch.equal((moved != mask)[~marked.expand_as(mask)].any(), torch.tensor(True))


def test_looks_shared_saliency_up_once(monkeypatch):
    looked, small = [], _ByFile.small
    monkeypatch.setattr(_ByFile, "small", lambda *given: looked.append(given) or small(*given))
    saliency = _ByFile()
    OneOf([CutPaste(saliency=saliency), Cracks(saliency=saliency)]).forge(torch.rand(2, 3, 32, 32), paths=["left", ""])
    assert len(looked) == 1


def test_kinds_keep_a_stream_of_their_own():
    kind = CutPaste().manual_seed(3)
    before = kind.generator.get_state()
    OneOf([kind])(torch.rand(2, 3, 16, 16))
    assert torch.equal(kind.generator.get_state(), before)


def test_no_copy_of_an_output_is_kept_on_the_host():
    both = OneOf([HardCutPaste(), DraemPerlin(p=1.0)])
    both.forge(torch.rand(2, 3, 32, 32))
    both(torch.rand(2, 3, 32, 32))
    assert not any(hasattr(part, "_output_image") for part in both.modules())


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
def test_images_that_a_kind_rotates_are_rotated_before_and_marked_where_they_differ(p):
    both, image = (
        OneOf([CutPaste(), SaliencyPerlin(rotation_p=1.0, p=0.5)], p=p).manual_seed(0),
        torch.rand(8, 3, 32, 32),
    )
    forged, mask = both.forge(image)
    normal = both.rotate(image)
    assert torch.equal(torch.where(mask == 1, normal, forged), normal)
    is_rotated = (normal != image).flatten(1).any(1)
    assert torch.equal(is_rotated, (both._params["kind"] == 1) & (both._params["batch_prob"] > 0.5))
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
        ([], None, "kinds must hold one transform or more, got none"),
        ([CutPaste()], (1, 1), r"weights must be one for each of 1 kinds, got \(1, 1\)"),
        ([CutPaste(), CutPaste()], (1, -1), r"weights must be finite, 0 or more, and not all 0, got \(1, -1\)"),
        ([CutPaste()], (0,), r"weights must be finite, 0 or more, and not all 0, got \(0,\)"),
        ([CutPaste()], (float("nan"),), r"weights must be finite"),
        ([CutPaste()], (float("inf"),), r"weights must be finite"),
    ],
)
def test_refuses_weights_that_do_not_fit(kinds, weights, message):
    with pytest.raises(ValueError, match=message):
        OneOf(kinds, weights)
