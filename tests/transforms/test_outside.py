"""Nothing is forged in a region, wherever a transform moves it."""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from anomalib_anoseg.transforms import CutPaste, HardCutPaste, LocalWarp, OneOf, Outside, SaliencyPerlin
from anomalib_anoseg.transforms.outside import resize_region

LEFT = (torch.arange(32) < 16).expand(32, 32)


def test_the_region_keeps_its_pixels_and_the_rest_its_anomalies():
    image = torch.rand(16, 3, 32, 32)
    forged, mask = Outside(HardCutPaste(hard_p=1.0), LEFT).manual_seed(1).forge(image)
    elsewhere, whole = HardCutPaste(hard_p=1.0).manual_seed(1).forge(image)
    assert (whole[..., LEFT] == 1).any()
    assert torch.equal(forged[..., LEFT], image[..., LEFT])
    assert not mask[..., LEFT].any()
    assert torch.equal(forged[..., ~LEFT], elsewhere[..., ~LEFT])
    assert torch.equal(mask[..., ~LEFT], whole[..., ~LEFT])


def test_an_anomaly_within_the_region_leaves_the_image_as_it_was():
    everywhere, image = torch.ones(32, 32, dtype=torch.bool), torch.rand(4, 3, 32, 32)
    forged, mask = Outside(HardCutPaste(), everywhere).forge(image)
    assert torch.equal(forged, image)
    assert not mask.any()


def test_the_region_turns_with_the_image_and_is_filled():
    # Images whose red channel shows the region, so that it can be seen where it went.
    image = torch.cat((LEFT.float().expand(32, 1, 32, 32), torch.rand(32, 2, 32, 32)), 1)
    transform = Outside(SaliencyPerlin("none", rotation_p=0.5, p=1.0), LEFT, fill=0.5).manual_seed(0)
    forged, mask = transform.forge(image)
    plain = SaliencyPerlin("none", rotation_p=0.5, p=1.0).manual_seed(0)
    plain.forge(image)
    turned = plain.rotate(image)[:, :1] > 0
    assert not torch.equal(turned, LEFT.expand_as(turned))
    assert set(forged.masked_select(turned).tolist()) == {0.5}
    assert not mask.masked_select(turned).any()
    assert torch.equal(transform.rotate(image), plain.rotate(image).masked_fill(turned, 0.5))


@pytest.mark.parametrize("has_paths", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda: CutPaste(saliency="border_contrast"),
        lambda: SaliencyPerlin("spectral_residual", textures=None, rotation_p=0.5),
        lambda: LocalWarp(area=(0.3, 0.9)),
        lambda: OneOf([HardCutPaste(hard_p=1.0), LocalWarp(area=(0.3, 0.9))]),
    ],
)
def test_what_lies_in_a_filled_region_reaches_no_anomaly(make, has_paths):
    one = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    other = torch.where(LEFT, 1 - one, one)
    paths = [f"{number}.png" for number in range(8)] if has_paths else None
    for fill, is_equal in ((0.5, True), (None, False)):  # without fill, this check sees an influence
        transform = Outside(make(), LEFT, fill)
        first, second = (transform.manual_seed(0).forge(image, paths=paths) for image in (one, other))
        for left, right in zip(first, second, strict=True):
            assert not is_equal or torch.equal(left, right)
        assert is_equal or not torch.equal(first.image[..., ~LEFT], second.image[..., ~LEFT])
        assert first.mask.any()


def test_saliency_that_is_looked_up_is_empty_in_a_filled_region(tmp_path):
    """Maps of another tool, made of pictures in which it saw the region."""
    Image.fromarray(LEFT.numpy().astype("uint8") * 255).save(tmp_path / "0.png")
    image, maps = torch.rand(1, 3, 32, 32), str(tmp_path)
    for fill, is_salient in ((None, True), (0.5, False)):
        found = Outside(OneOf([CutPaste(saliency=maps)]), LEFT, fill).look_up(image, ["a/0.png"])
        (saliency,) = (value for name, value in found.items() if name.endswith("saliency"))
        assert bool(saliency.any()) == is_salient


@pytest.mark.parametrize("size", [(64, 64), (29, 50)])
@pytest.mark.parametrize("before", [(48, 256), (200, 61)])
def test_what_is_empty_in_a_resized_region_is_empty_in_the_region(before, size):
    """Also what a pixel that is resized from the region saw of it."""
    generator = torch.Generator().manual_seed(0)
    region = torch.rand(before, generator=generator) > 0.999
    resized = resize_region(region, size)
    assert resized.any()
    full = (~resized).float()[None, None]
    for antialias in (False, True):
        back = F.interpolate(full, before, mode="bilinear", antialias=antialias)
        assert back[0, 0][region].max() < 1e-4
    other = F.interpolate(region.float()[None, None], size, mode="bilinear", antialias=True)
    assert not other[0, 0][~resized].any()


def test_what_is_no_region_is_refused():
    with pytest.raises(ValueError, match=r"region must be bool of shape \(H, W\), got torch.float32 \(1, 4, 4\)"):
        Outside(HardCutPaste(), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match=r"fill must lie within \[0.0, 1.0\], got 128"):
        Outside(HardCutPaste(), LEFT, fill=128)


def test_names_the_kinds_of_what_it_surrounds():
    mixture = OneOf([CutPaste(), HardCutPaste()], names=["plain", "hard"])
    outside = Outside(mixture, torch.zeros(8, 8, dtype=torch.bool)).manual_seed(0)
    outside.forge(torch.rand(4, 3, 16, 16))
    assert sorted(outside.name_kinds()) == ["hard", "hard", "plain", "plain"]
