"""Where CutPaste pastes, what it pastes, and what its mask says."""

import pytest
import torch

from anomalib_anoseg.transforms import CutPaste, HardCutPaste, SeededAugmentation


@pytest.fixture(params=[CutPaste, HardCutPaste], ids=lambda cls: cls.__name__)
def transform(request):
    return request.param().manual_seed(0)


@pytest.mark.parametrize("size", [(64, 64), (61, 97)])
def test_mask_marks_exactly_the_changed_pixels(transform, size):
    # In noise, hardly a pixel equals the one pasted over it.
    image = torch.rand(16, 3, *size)
    forged, mask = transform.forge(image)
    changed = (forged != image).any(1, keepdim=True).float()
    assert not changed[mask == 0].any()
    assert changed[mask == 1].mean() > 0.99
    assert set(mask.unique().tolist()) == {0.0, 1.0}


def test_area_stays_within_its_bounds():
    image = torch.rand(256, 3, 64, 64)
    share = CutPaste(area=(0.05, 0.1), rotation_p=0.5).manual_seed(0).forge(image).mask.mean((1, 2, 3))
    # Clipping by the border leaves a quarter at least of a patch whose centre is inside, if it is not long and thin.
    assert share.max() <= 0.1 * 1.1
    assert share.min() >= 0.05 / 4 * 0.8
    assert 0.045 < share.median() < 0.08


def test_upright_patch_is_cut_out_of_the_image_itself():
    image = torch.rand(1, 1, 32, 32)
    forged, mask = CutPaste(rotation_p=0.0).manual_seed(1).forge(image)
    # Every pasted value exists elsewhere in the image.
    distance = (forged[mask == 1][:, None] - image.flatten()).abs().amin(1)
    assert distance.max() < 1e-4


def test_rotation_rotates_the_mask():
    image = torch.rand(64, 1, 64, 64)
    upright = CutPaste(rotation_p=0.0).manual_seed(0).forge(image).mask
    rotated = CutPaste(rotation_p=1.0).manual_seed(0).forge(image).mask
    # The rows of an upright rectangle are all equal where there are any.
    widths = upright.sum(-1).squeeze(1)
    assert all(len(set(rows[rows > 0].tolist())) == 1 for rows in widths)
    assert sum(len(set(rows[rows > 0].tolist())) > 1 for rows in rotated.sum(-1).squeeze(1)) > 48


def test_patch_that_changes_nothing_is_no_anomaly():
    image = torch.full((8, 3, 32, 32), 0.5)
    forged, mask = CutPaste().forge(image)
    assert torch.equal(forged, image)
    assert mask.sum() == 0


def test_patch_that_hardly_differs_is_drawn_again():
    # Left half flat, right half noise: a patch from the left onto the left would be a false label.
    image = torch.full((256, 1, 32, 32), 0.5)
    image[..., 16:] = torch.rand(256, 1, 32, 16)
    transform = CutPaste(area=(0.02, 0.04), rotation_p=0.0).manual_seed(0)
    forged, mask = transform.forge(image)
    is_marked = mask.flatten(1).any(1)
    difference = ((forged - image).abs() * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3)).clamp(min=1)
    assert (difference[is_marked] >= 1 / 255).all()
    once = transform.forge(image, _first_draws(transform._params, 1)).mask
    assert (once != mask).flatten(1).any(1).sum() > 16
    assert is_marked.float().mean() > 0.9


def _first_draws(params, count):
    names = ("area", "aspect", "angle", "center", "origin", "opacity", "softness")
    return params | {name: params[name][:, :, :count] for name in names}


def test_skipped_images_keep_an_empty_mask():
    image = torch.rand(32, 3, 32, 32)
    forged, mask = CutPaste(p=0.5).manual_seed(0).forge(image)
    is_marked = mask.flatten(1).any(1)
    assert 4 < is_marked.sum() < 28
    assert torch.equal(forged[~is_marked], image[~is_marked])


def test_hard_augmentation_changes_what_is_pasted():
    image = torch.rand(8, 3, 64, 64) * 0.2 + 0.4
    plain, hard = CutPaste(rotation_p=0.0).manual_seed(0), HardCutPaste(hard_p=1.0, rotation_p=0.0).manual_seed(0)
    plain_image, plain_mask = plain.forge(image)
    hard_image, hard_mask = hard.forge(image)
    assert torch.equal(plain_mask, hard_mask)
    pasted = plain_mask.expand_as(image) == 1
    assert plain_image[pasted].min() >= 0.39
    assert hard_image[pasted].min() < 0.35


def test_one_call_can_have_its_own_generator():
    image, transform = torch.rand(4, 3, 32, 32), HardCutPaste().manual_seed(0)
    state = transform.generator.get_state()
    first, second = (transform.forge(image, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(transform.generator.get_state(), state)


class _Constant(SeededAugmentation):
    """Replaces every image by a constant one."""

    def __init__(self, image):
        super().__init__(p=1.0)
        self.image = image

    def draw_parameters(self, *args):
        del args
        return {}

    def change(self, *args):
        del args
        return self.image


@pytest.mark.parametrize(
    "arguments",
    [
        {"area": (0.2, 0.1)},
        {"area": (0.0, 0.1)},
        {"area": (0.1, 1.5)},
        {"aspect": (0.0, 1.0)},
        {"rotation": 270.0},
        {"rotation_p": 1.5},
        {"count": 0},
        {"opacity": (0.0, 0.5)},
        {"softness": (0.0, 1.5)},
    ],
)
def test_refuses_arguments_out_of_range(arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"{name} must lie within"):
        CutPaste(**arguments)


def test_several_patches_cover_more():
    image = torch.rand(32, 3, 64, 64)
    one, four = (CutPaste(count=count).manual_seed(0).forge(image).mask.mean() for count in (1, 4))
    assert 2 * one < four < 4 * one


def test_every_patch_has_its_own_hard_augmentation():
    transform = HardCutPaste(count=2)
    transform.forge(torch.rand(64, 3, 32, 32))
    first, second = (transform._params[f"source.{number}.0.angle"] for number in range(2))
    assert not torch.equal(first, second)


def test_opacity_fades_what_is_pasted():
    image = torch.rand(8, 3, 32, 32)
    full, half = (CutPaste(opacity=(value, value)).manual_seed(0).forge(image) for value in (1.0, 0.5))
    assert torch.equal(full.mask, half.mask)
    torch.testing.assert_close(half.image, (image + full.image) / 2)


def test_a_soft_patch_rises_from_its_rim():
    # White on black shows the weights themselves.
    black, white = torch.zeros(8, 3, 65, 65), torch.ones(8, 3, 65, 65)
    arguments = {"area": (0.2, 0.2), "aspect": (1.0, 1.0), "rotation_p": 0.0}
    for softness, levels in ((0.0, 2), (1.0, 15)):
        transform = CutPaste(**arguments, softness=(softness, softness), source=[_Constant(white)]).manual_seed(0)
        forged, mask = transform.forge(black)
        assert torch.equal(mask == 1, forged[:, :1] > 0)
        assert forged.unique().numel() >= levels
        assert (softness > 0) or set(forged.unique().tolist()) == {0.0, 1.0}
        steps = (forged[..., 1:] - forged[..., :-1]).abs().amax()
        assert steps == 1 if softness == 0 else steps < 0.1  # the patch is 29 pixels wide


def test_mask_can_mark_changed_pixels_alone():
    # In an image of two greys, about half of what is pasted equals what it covers.
    image = torch.randint(2, (8, 1, 32, 32)).expand(-1, 3, -1, -1) * 0.5
    forged, mask = CutPaste(mark="changed", rotation_p=0.0).manual_seed(0).forge(image)
    assert torch.equal(mask.bool(), ((forged - image).abs() > 3 / 255).any(1, keepdim=True))
    assert 0.3 < mask.mean() / CutPaste(rotation_p=0.0).manual_seed(0).forge(image).mask.mean() < 0.7


def test_gradient_reaches_the_image_through_changed_pixels():
    image = torch.rand(2, 3, 16, 16, requires_grad=True)
    CutPaste(mark="changed", count=2).manual_seed(0).forge(image).image.sum().backward()
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


def test_refuses_to_mark_anything_else():
    with pytest.raises(ValueError, match="mark must be 'patch' or 'changed', got 'edge'"):
        CutPaste(mark="edge")


def test_hard_augmentation_refuses_bad_arguments():
    with pytest.raises(ValueError, match="hard_p must lie within"):
        HardCutPaste(hard_p=2.0)
    with pytest.raises(ValueError, match=r"jitter \(hue\) must lie within \[0.0, 0.5\], got 0.6"):
        HardCutPaste(jitter=(0.5, 0.5, 0.5, 0.6))
    with pytest.raises(ValueError, match=r"jitter must be \(brightness, contrast, saturation, hue\)"):
        HardCutPaste(jitter=(0.5, 0.5))
