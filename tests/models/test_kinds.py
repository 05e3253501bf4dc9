"""Further kinds of anomaly among a model's own."""

from collections import Counter

import pytest
import torch

from anomalib_anoseg import SGSF, AnoSeg
from anomalib_anoseg.models.kinds import CREATE, KindSettings
from anomalib_anoseg.transforms import CutPaste, OneOf, SaliencyPerlin

BARE = {"network": {"width": 0.125}, **dict.fromkeys(("post_processor", "evaluator", "visualizer"), False)}
ALL = dict.fromkeys(CREATE, 0.125)


def images(count=16):
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def test_without_them_models_forge_as_before():
    assert isinstance(AnoSeg((64, 64), **BARE).augmenter, CutPaste)
    assert isinstance(SGSF((64, 64), **BARE).augmenter, SaliencyPerlin)
    both = AnoSeg((64, 64), noise={"share": 0.25}, **BARE).augmenter
    twin = OneOf(list(both.kinds), [0.75, 0.25])
    for one, other in zip(both.manual_seed(0).forge(images()), twin.manual_seed(0).forge(images()), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("model", "own"), [(AnoSeg, "patches"), (SGSF, "noise")])
def test_each_kind_takes_its_share_and_is_named(model, own):
    augmenter = model((64, 64), kinds=ALL, **BARE).augmenter
    forged, mask = augmenter.manual_seed(0).forge(images())
    assert Counter(augmenter.name_kinds()) == dict.fromkeys([own, *CREATE], 2)
    normal = augmenter.rotate(images())
    assert torch.equal(torch.where(mask == 1, normal, forged), normal)
    assert model((64, 64), kinds={"cracks": 1.0}, **BARE).augmenter.names == ("cracks",)


def test_sgsf_pastes_patches_on_their_share_and_turns_them_in_calibration_too():
    shares = {"anomalies": {"patch_share": 0.5, "p": 1.0, "rotation_p": 1.0}, "kinds": {"cracks": 0.5}}
    patches = {"mark": "changed", "saliency": "border_contrast", "rotation_p": 0.75}
    model = SGSF((64, 64), **shares, patches=patches, **BARE)
    augmenter = model.augmenter.manual_seed(0)
    normal = images()
    forged, mask = augmenter.forge(normal)
    assert Counter(augmenter.name_kinds()) == {"noise": 4, "patches": 4, "cracks": 8}
    normal = augmenter.rotate(normal)
    assert torch.equal(torch.where(mask == 1, normal, forged), normal)
    noise, pasted, _ = augmenter.kinds
    assert noise.saliency is pasted.saliency  # computed once
    upright = model.calibration_anomalies.image.kinds
    assert [kind.flags["rotation_p"] for kind in list(upright)[:2]] == [0.0, 0.75]


def test_they_lie_where_the_own_anomalies_lie():
    for augmenter in (
        AnoSeg((64, 64), kinds=ALL, patches={"saliency": "spectral_residual"}, **BARE).augmenter,
        SGSF((64, 64), kinds=ALL, anomalies={"saliency": "spectral_residual"}, **BARE).augmenter,
    ):
        assert len({kind.saliency for kind in augmenter.kinds}) == 1


def test_sgsf_keeps_its_share_of_normal_images_and_calibrates_on_upright_ones():
    model = SGSF((64, 64), kinds=ALL, anomalies={"p": 0.5, "rotation_p": 1.0}, **BARE)
    assert 16 < model.augmenter.manual_seed(0).forge(images(64)).mask.flatten(1).any(1).sum() < 48
    assert {kind.p for kind in model.augmenter.kinds} == {1.0}
    calibration = model.calibration_anomalies.image
    calibration.forge(images())
    assert torch.equal(calibration.rotate(images()), images())
    assert (calibration.p, calibration.names) == (0.5, model.augmenter.names)


def test_the_calibrations_area_is_that_of_patches():
    model = AnoSeg((64, 64), kinds={"stains": 0.5}, calibration={"area": (0.3, 0.4), "opacity": (0.2, 0.3)}, **BARE)
    patches, stains = model.calibration_anomalies.map.kinds
    assert (patches.flags["area"], patches.flags["opacity"]) == ((0.3, 0.4), (0.2, 0.3))
    assert stains.flags["area"] == model.augmenter.kinds[1].flags["area"]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"cracks": 0.6, "missing": 0.6}, "kinds: the shares must add up to 1 at most, got 1.2"),
        ({"cracks": -0.1}, r"kinds.cracks must lie within \[0.0, 1.0\], got -0.1"),
    ],
)
def test_refuses_shares_that_are_none(shares, message):
    with pytest.raises(ValueError, match=message):
        KindSettings(**shares)
    KindSettings(**dict.fromkeys(CREATE, 1 / 7))  # rounding does no harm
