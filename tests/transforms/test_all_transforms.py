"""Properties that every transform has, for every gate, size and dtype."""

import copy
import pickle

import pytest
import torch
from kornia.augmentation import AugmentationSequential

from anomalib_anoseg.transforms import (
    Cracks,
    CutPaste,
    DraemPerlin,
    HardCutPaste,
    LocalBlur,
    LocalShade,
    LocalWarp,
    MissingPart,
    OneOf,
    Outside,
    PerlinAnomaly,
    RandomColorJitter,
    RandomHalfSwap,
    RandomQuarterRotation,
    RandomStream,
    SaliencyPerlin,
    SyntheticAnomaly,
    Textures,
)
from anomalib_anoseg.transforms.saliency import Saliency


class Left(Saliency):
    """Finds the left third of every image salient."""

    def estimate(self, image, paths):
        del paths
        return (torch.linspace(0, 1, image.shape[-1], device=image.device) < 1 / 3).float().expand_as(image[:, :1])


class CutPasteOnObject(CutPaste):
    def __init__(self, **arguments):
        super().__init__(saliency=Left(), **arguments)


class OwnImage(Textures):
    """Each image is its own texture: those of another source may come from the rest of the batch."""

    def look_up(self, image, params):
        del params
        return (image.float() * 255).to(torch.uint8)


class PatchOrNoise(OneOf):
    def __init__(self, **arguments):
        super().__init__([HardCutPaste(), DraemPerlin(OwnImage(), p=1.0)], **arguments)


class OutsideCorner(Outside):
    def __init__(self, **arguments):
        corner = torch.zeros(8, 8, dtype=torch.bool)
        corner[:3, :3] = True
        super().__init__(HardCutPaste(), corner, **arguments)


class ManyKinds(OneOf):
    def __init__(self, **arguments):
        super().__init__([MissingPart(), LocalShade()], [1, 3], **arguments)


TRANSFORMS = [
    RandomQuarterRotation,
    RandomHalfSwap,
    RandomColorJitter,
    CutPaste,
    HardCutPaste,
    CutPasteOnObject,
    SaliencyPerlin,
    DraemPerlin,
    PatchOrNoise,
    OutsideCorner,
    ManyKinds,
    Cracks,
    MissingPart,
    LocalWarp,
    LocalShade,
    LocalBlur,
]
SIZES = [(64, 64), (61, 97)]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(params=TRANSFORMS, ids=lambda cls: cls.__name__)
def transform_class(request):
    return request.param


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_keeps_shape_dtype_and_range(transform_class, size, dtype):
    image = torch.rand(3, 3, *size).to(dtype)
    output = transform_class(p=1.0)(image)
    assert output.shape == image.shape
    assert output.dtype == dtype
    assert output.min() >= 0
    assert output.max() <= 1


def test_does_nothing_at_p_0(transform_class):
    transform, image = transform_class(p=0.0), torch.rand(3, 3, 32, 32)
    output = transform(image)
    # What rotates the normal image as well does so whatever the gate says.
    assert torch.equal(output, transform.rotate(image) if transform_class is SaliencyPerlin else image)


def test_gate_passes_about_half_at_p_05(transform_class):
    image = torch.rand(64, 3, 32, 32)
    changed = (transform_class(p=0.5).manual_seed(0)(image) != image).flatten(1).any(1)
    assert 16 < changed.sum() < 48


def test_same_seed_same_batch_other_seed_other_batch(transform_class):
    image = torch.rand(8, 3, 32, 32)
    first, same, other = (transform_class(p=1.0).manual_seed(seed)(image) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_every_image_has_its_own_draw(transform_class):
    image = torch.rand(1, 3, 33, 33).expand(16, -1, -1, -1)
    output = transform_class(p=1.0).manual_seed(0)(image)
    assert len(output.flatten(1).unique(dim=0)) > 2


def test_seeded_draws_leave_the_global_stream_alone(transform_class):
    transform = transform_class(p=0.5).manual_seed(0)
    before = torch.get_rng_state()
    transform(torch.rand(2, 3, 32, 32, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), before)


def test_unseeded_draws_follow_the_global_stream(transform_class):
    image = torch.rand(8, 3, 32, 32)
    torch.manual_seed(3)
    first = transform_class(p=1.0)(image)
    torch.manual_seed(3)
    assert torch.equal(transform_class(p=1.0)(image), first)


def test_replays_from_its_parameters(transform_class):
    transform, image = transform_class(p=0.5), torch.rand(8, 3, 32, 32)
    output = transform(image)
    assert torch.equal(transform(image, params=transform._params), output)


def test_batch_of_one_equals_slice_of_batch(transform_class):
    arguments = {"textures": OwnImage()} if issubclass(transform_class, PerlinAnomaly) else {}
    transform, image = transform_class(p=1.0, **arguments), torch.rand(4, 3, 32, 32)
    output = transform(image)
    drawn = transform._params
    for index in range(4):
        params = {
            name: value if name.endswith("forward_input_shape") else value[index : index + 1].clone()
            for name, value in drawn.items()
        }
        torch.testing.assert_close(transform(image[index : index + 1], params=params), output[index : index + 1])


def test_mask_follows_in_a_container(transform_class):
    # An image that carries its own mask as colour shows whether the mask went where the image went.
    mask = torch.zeros(4, 1, 32, 32)
    mask[:, :, :10, 5:20] = 1
    container = AugmentationSequential(transform_class(p=1.0), data_keys=["input", "mask"])
    image, moved = container(mask.expand(-1, 3, -1, -1), mask)
    if issubclass(transform_class, (RandomQuarterRotation, RandomHalfSwap)):
        assert torch.equal(image[:, :1], moved)
    elif transform_class is RandomColorJitter:
        assert torch.equal(moved, mask)
    else:
        marked = next(iter(container.children())).transform_masks(torch.zeros_like(mask)) == 1
        assert (moved[marked] == 1).all()
        assert torch.equal(image[:, :1].round()[~marked], moved[~marked])
        assert transform_class is SaliencyPerlin or torch.equal(moved[~marked], mask[~marked])
    assert set(moved.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("transform_class", [cls for cls in TRANSFORMS if issubclass(cls, SyntheticAnomaly)])
def test_planting_depends_on_nothing_but_image_and_parameters(transform_class):
    transform, image = transform_class(p=0.5), torch.rand(8, 3, 32, 32)
    drawn, before = transform.draw(image.shape), image.clone()
    kept = {name: value.clone() for name, value in drawn.items()}
    first = transform.plant(image, drawn)
    transform.forge(torch.rand(2, 3, 16, 16))
    again = transform_class(p=0.5).plant(image, drawn)
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.mask, again.mask)
    assert torch.equal(image, before)
    assert drawn.keys() == kept.keys()
    assert all(torch.equal(drawn[name], value) for name, value in kept.items())


def test_draws_from_the_stream_that_it_gets(transform_class):
    transform = transform_class().manual_seed(0)
    before = transform.generator.get_state()
    first, second = (
        transform.draw((4, 3, 32, 32), RandomStream(generator=torch.Generator().manual_seed(5))) for _ in range(2)
    )
    assert all(torch.equal(first[name], value) for name, value in second.items())
    assert torch.equal(transform.generator.get_state(), before)


def test_a_mask_without_its_image_is_refused():
    image, transform = torch.rand(2, 3, 32, 32), CutPaste()
    for _ in range(2):
        with pytest.raises(ValueError, match="A mask follows its image: transform the image by these parameters first"):
            transform.transform_masks(torch.zeros(2, 1, 32, 32), transform.draw(image.shape))
        transform(image)


def test_container_gives_what_forge_gives():
    image = torch.rand(4, 3, 32, 32)
    container = AugmentationSequential(HardCutPaste(p=0.5).manual_seed(4), data_keys=["input", "mask"])
    forged, mask = container(image, torch.zeros(4, 1, 32, 32))
    again = HardCutPaste(p=0.5).manual_seed(4).forge(image)
    assert torch.equal(forged, again.image)
    assert torch.equal(mask, again.mask)


def test_works_under_autocast_as_without(transform_class):
    image = torch.rand(4, 3, 32, 32)
    expected = transform_class(p=1.0).manual_seed(0)(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(transform_class(p=1.0).manual_seed(0)(image), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_default_dtype_changes_nothing(transform_class, dtype):
    """Lightning sets it during a step with ``precision="bf16-true"`` and the like."""
    image = torch.rand(4, 3, 32, 32)
    expected = transform_class(p=1.0).manual_seed(0)(image)
    torch.set_default_dtype(dtype)
    try:
        output = transform_class(p=1.0).manual_seed(0)(image)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(output, expected)


def test_copies_and_pickles(transform_class):
    transform, image = transform_class(p=1.0).manual_seed(0), torch.rand(2, 3, 32, 32)
    twin, thawed = copy.deepcopy(transform), pickle.loads(pickle.dumps(transform))
    expected = transform(image)
    assert torch.equal(twin(image), expected)
    assert torch.equal(thawed(image), expected)
    assert not transform.state_dict()


def test_gradient_reaches_the_image(transform_class):
    image = torch.rand(2, 3, 16, 16, requires_grad=True)
    transform_class(p=1.0)(image).sum().backward()
    assert image.grad.isfinite().all()
    assert image.grad.abs().sum() > 0


def test_single_image_keeps_its_shape_with_keepdim(transform_class):
    assert transform_class(p=1.0, keepdim=True)(torch.rand(3, 32, 32)).shape == (3, 32, 32)


@pytest.mark.parametrize("transform_class", [cls for cls in TRANSFORMS if issubclass(cls, SyntheticAnomaly)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_single_image_of_any_kind_is_forged_or_refused_with_the_reason(transform_class, channels, dtype):
    image = torch.rand(channels, 32, 40).to(dtype)
    transform, same_shape = transform_class(p=1.0).manual_seed(0), transform_class(p=1.0, keepdim=True).manual_seed(0)
    if channels == 1 and transform_class in {SaliencyPerlin, CutPasteOnObject}:
        with pytest.raises(ValueError, match=r"RGB images, .* got \(1, 1, 32, 40\): repeat their channel"):
            transform.forge(image)
        return
    forged, mask = transform.forge(image)
    assert forged.shape == (1, channels, 32, 40)
    assert mask.shape == (1, 1, 32, 40)
    assert forged.dtype == mask.dtype == dtype
    rotated = transform.rotate(image)
    assert rotated.shape == forged.shape
    assert torch.equal(torch.where(mask == 1, rotated, forged), rotated)
    single, of_single = same_shape.forge(image)
    assert torch.equal(single, forged[0])
    assert torch.equal(of_single, mask[0])


def test_makes_no_host_synchronisation_and_no_loop_over_the_batch(transform_class, count_operations):
    transform = transform_class(p=0.5).manual_seed(0)
    counts = []
    for batch_size in (2, 32):
        image = torch.rand(batch_size, 3, 32, 32)
        transform(image)
        with count_operations() as counter:
            (transform.forge if hasattr(transform, "forge") else transform)(image)
        assert counter.synchronisations == 0
        counts.append(counter.operations)
    assert counts[0] == counts[1]


def test_compiles_into_one_graph(transform_class):
    transform, image = transform_class(p=1.0), torch.rand(2, 3, 32, 32)
    transform(image)
    params = transform._params
    compiled = torch.compile(transform, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(image, params=params), transform(image, params=params))


@pytest.mark.parametrize("p", [-0.1, 1.5])
def test_refuses_a_gate_that_is_no_probability(transform_class, p):
    with pytest.raises(ValueError, match=r"p must lie within \[0.0, 1.0\]"):
        transform_class(p=p)


def test_refuses_boxes_and_keypoints(transform_class):
    with pytest.raises(NotImplementedError, match="boxes have no meaning"):
        transform_class().transform_boxes(torch.rand(1, 1, 4))
    with pytest.raises(NotImplementedError, match="keypoints have no meaning"):
        transform_class().transform_keypoints(torch.rand(1, 1, 2))


@pytest.mark.parametrize("transform_class", [RandomHalfSwap, HardCutPaste])
def test_refuses_to_draw_once_for_a_batch(transform_class):
    container = AugmentationSequential(transform_class(), data_keys=["input"], same_on_batch=True)
    with pytest.raises(ValueError, match="draws anew for each image: leave out same_on_batch=True"):
        container(torch.rand(2, 3, 16, 16))


@pytest.mark.parametrize("image", [torch.rand(8, 8), torch.zeros(1, 3, 8, 8, dtype=torch.uint8)])
def test_refuses_what_is_no_image(transform_class, image):
    with pytest.raises(ValueError, match="Images must be floating point of shape"):
        transform_class()(image)
