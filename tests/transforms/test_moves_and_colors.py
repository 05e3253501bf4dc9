"""What rotation, perm and colour jitter do to pixels."""

import pytest
import torch
from torchvision.transforms.v2 import functional as F

from anomalib_anoseg.transforms import RandomColorJitter, RandomHalfSwap, RandomQuarterRotation


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_quarter_rotation_is_exact(angle):
    image = torch.rand(2, 3, 17, 17)
    rotated = RandomQuarterRotation(angles=(angle,), p=1.0)(image)
    assert torch.equal(rotated, image.rot90(angle // 90, (-2, -1)))


def test_quarter_rotation_draws_every_angle():
    image = torch.rand(1, 1, 8, 8).expand(64, -1, -1, -1)
    rotated = RandomQuarterRotation(p=1.0).manual_seed(0)(image)
    for turns in (1, 2, 3):
        assert any(torch.equal(one, image[0].rot90(turns, (-2, -1))) for one in rotated)


def test_oblong_images_are_rotated_by_180_degrees():
    image = torch.rand(4, 3, 16, 24)
    assert torch.equal(RandomQuarterRotation(p=1.0)(image), image.flip((-2, -1)))


@pytest.mark.parametrize("angles", [(), (45,), (0, 90)])
def test_quarter_rotation_refuses_other_angles(angles):
    with pytest.raises(ValueError, match="angles must be a non-empty subset"):
        RandomQuarterRotation(angles=angles)


@pytest.mark.parametrize(("swap", "axes"), [(0, (-2,)), (1, (-1,)), (2, (-2, -1))])
def test_half_swap_swaps_halves(swap, axes):
    image, transform = torch.rand(1, 3, 8, 12), RandomHalfSwap(p=1.0)
    transform(image)
    swapped = transform(image, params=transform._params | {"swap": torch.tensor([swap])})
    expected = image
    for axis in axes:
        first, second = expected.chunk(2, axis)
        expected = torch.cat((second, first), axis)
    assert torch.equal(swapped, expected)


def test_half_swap_of_odd_sides_moves_every_pixel_to_one_place():
    image = torch.rand(8, 1, 7, 9)
    swapped = RandomHalfSwap(p=1.0)(image)
    assert torch.equal(swapped.flatten(1).sort().values, image.flatten(1).sort().values)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("brightness", F.adjust_brightness),
        ("contrast", F.adjust_contrast),
        ("saturation", F.adjust_saturation),
    ],
)
@pytest.mark.parametrize("factor", [0.6, 1.3])
def test_jitter_is_torchvisions(name, reference, factor):
    image, transform = torch.rand(2, 3, 16, 16) * 0.4 + 0.3, RandomColorJitter(p=1.0)
    neutral = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0, name: factor}
    params = {key: torch.full((2,), value) for key, value in neutral.items()}
    # torchvision rounds the luma's weights to four digits.
    torch.testing.assert_close(transform(image, params=params), reference(image, factor), atol=2e-4, rtol=0)


def test_hue_turns_the_color_wheel():
    red, transform = torch.tensor([0.6, 0.2, 0.2]).view(1, 3, 1, 1), RandomColorJitter(p=1.0)
    params = {key: torch.ones(1) for key in ("brightness", "contrast", "saturation")} | {"hue": torch.tensor([1 / 3])}
    torch.testing.assert_close(transform(red, params=params).flatten(), torch.tensor([0.2, 0.6, 0.2]))


def test_grey_images_keep_their_single_channel():
    assert RandomColorJitter(p=1.0)(torch.rand(2, 1, 8, 8)).shape == (2, 1, 8, 8)


def test_jitter_refuses_other_channels():
    with pytest.raises(ValueError, match="1 or 3 channels, got shape"):
        RandomColorJitter(p=1.0)(torch.rand(2, 4, 8, 8))


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation", "hue"])
def test_jitter_refuses_amounts_out_of_range(name):
    with pytest.raises(ValueError, match=f"{name} must lie within"):
        RandomColorJitter(**{name: 1.1})
