"""Where noise-shaped anomalies lie, what they are made of, and what their masks say."""

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from anomalib.models import Draem
from kornia.augmentation import AugmentationSequential

from anomalib_anoseg.transforms import DraemPerlin, SaliencyPerlin, Textures, _tensors
from anomalib_anoseg.transforms.perlin import perlin_noise, rotate_noise
from anomalib_anoseg.transforms.saliency import Saliency


class Flat(Textures):
    """A texture without any distortion: one value everywhere."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, image, params):
        del params
        return torch.full_like(image, self.value, dtype=torch.float32)


class Square(Saliency):
    """The same map for all images: a square of weight 1, or whatever ``level`` says, on nothing."""

    def __init__(self, level=1.0):
        super().__init__()
        self.level = level

    def estimate(self, image, paths):
        del paths
        saliency = torch.zeros_like(image[:, :1])
        saliency[..., 8:40, 16:32] = self.level
        return saliency


def noise_of(params, size, threshold=-1.0):
    """Compute each image's first noise that exceeds the threshold anywhere on a grid of at most 48 pixels a side."""

    def compute(index, size):
        noise = perlin_noise(params["gradients"][index], params["frequency"][index], size)
        return rotate_noise(noise, params["angle"][index])[:, None]

    rows, (count, draws) = torch.arange(len(params["angle"])), params["angle"].shape
    every = rows.repeat_interleave(draws), torch.arange(draws).repeat(count)
    exceeds = (compute(every, tuple(min(side, 48) for side in size)) > threshold).flatten(1).any(1)
    return compute((rows, exceeds.view(count, draws).int().argmax(1)), size)


@pytest.fixture(params=[SaliencyPerlin, DraemPerlin], ids=lambda cls: cls.__name__)
def transform(request):
    return request.param(p=1.0).manual_seed(0)


@pytest.mark.parametrize("size", [(64, 64), (61, 97)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_mask_marks_exactly_the_changed_pixels(transform, size, dtype):
    # In noise, hardly a pixel equals the texture that shows through.
    image = torch.rand(32, 3, *size).to(dtype)
    forged, mask = transform.forge(image)
    changed = (forged != transform.rotate(image)).any(1, keepdim=True)
    assert not changed[mask == 0].any()
    assert changed[mask == 1].float().mean() > (0.9 if dtype == torch.bfloat16 else 0.98)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.flatten(1).any(1).float().mean() > 0.9


@pytest.mark.parametrize("rotation_p", [0.0, 0.5])
def test_mask_of_what_changed_leaves_out_what_nobody_sees(rotation_p):
    # Four grey levels between texture and image: it takes more than three quarters of the texture's weight to see it.
    image = torch.full((128, 3, 48, 48), 100 / 255)
    arguments = {"textures": Flat(104 / 255), "opacity": (0.5, 1.0), "rotation_p": rotation_p, "p": 1.0}
    whole = SaliencyPerlin(**arguments).manual_seed(0)
    transform = SaliencyPerlin(**arguments, mark="changed").manual_seed(0)
    every, changed = whole.forge(image), transform.forge(image)
    assert torch.equal(every.image, changed.image)
    is_seen = ((changed.image - transform.rotate(image)).abs() > 3 / 255).any(1, keepdim=True)
    assert torch.equal(changed.mask.bool(), is_seen)
    assert torch.equal(transform.transform_masks(torch.zeros_like(changed.mask), transform._params), changed.mask)
    assert 0 < changed.mask.sum() < 0.9 * every.mask.sum()
    assert not changed.mask[every.mask == 0].any()


def test_opacity_weighs_texture_against_image():
    image = torch.full((256, 3, 32, 32), 0.25)
    transform = DraemPerlin(Flat(0.75), opacity=(0.1, 1.0), p=1.0).manual_seed(0)
    forged, mask = transform.forge(image)
    weight = torch.stack([(one[:, area[0] == 1].mean() - 0.25) / 0.5 for one, area in zip(forged, mask, strict=True)])
    weight = weight[weight.isfinite()]
    torch.testing.assert_close(weight, transform._params["opacity"][mask.flatten(1).any(1)], rtol=0, atol=1e-5)
    assert 0.1 <= weight.min() < 0.15
    assert 0.95 < weight.max() <= 1 + 1e-5
    assert abs(weight.mean() - 0.55) < 0.05


@pytest.mark.parametrize(("transform_class", "share"), [(SaliencyPerlin, 0.75), (DraemPerlin, 0.5)])
def test_share_of_forged_images(transform_class, share):
    transform = transform_class().manual_seed(0)
    masks = torch.cat([transform.forge(torch.rand(64, 3, 32, 32)).mask for _ in range(8)])
    # Four standard deviations, and some images whose noise stays empty.
    assert abs(masks.flatten(1).any(1).float().mean() - share) < 4 * (share * (1 - share) / 512) ** 0.5 + 0.01


def test_normal_images_are_rotated_whatever_the_gate_says():
    image = torch.rand(64, 3, 32, 32)
    transform = SaliencyPerlin(p=0.0, rotation_p=0.3).manual_seed(0)
    forged, mask = transform.forge(image)
    is_rotated = (forged != image).flatten(1).any(1)
    assert not mask.any()
    assert is_rotated.sum().item() in {19, 20}
    assert torch.equal(is_rotated, transform._params["rotated"].flatten(1).any(1))
    assert torch.equal(SaliencyPerlin(p=0.0, rotation_p=0.0)(image), image)


def test_saliency_confines_the_mask_and_is_rotated_with_the_image():
    image = torch.rand(64, 3, 48, 48)
    transform = SaliencyPerlin(Square(), threshold=(0.2, 0.0), rotation_p=0.5, p=1.0).manual_seed(0)
    _, mask = transform.forge(image)
    inside = transform.rotate(Square()(image))
    assert mask.flatten(1).any(1).float().mean() > 0.9
    assert not mask[inside == 0].any()
    assert mask[inside > 0.9].mean() > 0.1
    assert mask[:, :, 8:40, 16:32].sum() < mask.sum()


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64])
def test_a_mask_of_any_dtype_is_rotated_like_one_of_floats(dtype):
    mask = torch.zeros(4, 1, 32, 32)
    mask[..., :10, 5:20] = 1
    transform = SaliencyPerlin(rotation_p=1.0).manual_seed(0)
    transform(torch.rand(4, 3, 32, 32))
    expected = transform.transform_masks(mask)
    moved = transform.transform_masks(mask.to(dtype))
    assert moved.dtype == dtype
    assert torch.equal(moved.float(), expected)


def test_threshold_adapts_to_the_salient_area():
    size, level = (48, 64), 0.75
    transform = SaliencyPerlin(Square(level), threshold=(0.05, 0.4), rotation_p=0.0, redraws=0, p=1.0).manual_seed(0)
    _, mask = transform.forge(torch.rand(16, 3, *size))
    threshold = 0.05 + 0.4 * level * 32 * 16 / (48 * 64)
    noise = noise_of(transform._params, size) * Square(level)(torch.rand(1, 3, *size))
    assert threshold == pytest.approx(0.1)
    assert torch.equal(mask.bool(), noise > threshold)


@pytest.mark.parametrize("level", [0.0, 1e-3])
def test_empty_saliency_means_plain_noise(level):
    # A square of 32 x 16 pixels of weight 0.001 has a mean far below the smallest that counts.
    image, arguments = torch.rand(16, 3, 48, 64), {"rotation_p": 0.0, "p": 1.0}
    empty = SaliencyPerlin(Square(level), **arguments).manual_seed(0).forge(image)
    plain = SaliencyPerlin("none", **arguments).manual_seed(0)
    assert torch.equal(empty.mask, plain.forge(image).mask)
    assert torch.equal(empty.mask.bool(), noise_of(plain._params, (48, 64), 0.4) > 0.4)
    assert empty.mask.any()


def test_empty_masks_are_drawn_again():
    image = torch.rand(128, 3, 48, 48)
    arguments = {"saliency": Square(), "threshold": (0.6, 0.0), "frequencies": (1, 2, 4), "rotation_p": 0.0, "p": 1.0}
    once = SaliencyPerlin(**arguments, redraws=0).manual_seed(0).forge(image).mask
    transform = SaliencyPerlin(**arguments, redraws=5).manual_seed(0)
    again = transform.forge(image).mask
    empty = 1 - once.flatten(1).any(1).float().mean()
    assert empty > 0.3
    assert 1 - again.flatten(1).any(1).float().mean() < empty**6 + 4 * (empty**6 / 128) ** 0.5 + 0.02
    first_two = {name: transform._params[name][:, :2] for name in ("frequency", "gradients", "angle")}
    twice = transform.forge(image, transform._params | first_two).mask
    assert (again.flatten(1).any(1) & ~twice.flatten(1).any(1)).any()


def test_mask_that_stays_empty_leaves_the_image_normal():
    image = torch.rand(8, 3, 32, 32)
    forged, mask = SaliencyPerlin(threshold=(1.0, 1.0), rotation_p=0.0, p=1.0).forge(image)
    assert torch.equal(forged, image)
    assert not mask.any()


def test_large_images_in_parts_are_forged_as_at_once(transform, monkeypatch):
    image, forged = torch.rand(3, 3, 61, 97), []
    for worth_parts in (1, 10**9):
        monkeypatch.setattr(_tensors, "WORTH_PARTS", worth_parts)
        forged += [transform.manual_seed(0).forge(image)]
    assert torch.equal(forged[0].mask, forged[1].mask)
    assert torch.equal(forged[0].image, forged[1].image)


def test_masks_given_before_stay_when_replayed(transform):
    image = torch.rand(4, 3, 64, 64)
    mask = transform.forge(image).mask
    before = mask.clone()
    replayed = transform.forge(image, params=transform._params | {"batch_prob": torch.zeros(4)})
    assert torch.equal(mask, before)
    assert not replayed.mask.any()
    assert not transform.transform_masks(torch.zeros_like(mask)).any()


def test_paths_reach_the_saliency_and_replay_needs_none():
    class ByPath(Square):
        def estimate(self, image, paths):
            if paths is None:
                raise ValueError("no paths")
            keep = torch.tensor([path == "object.png" for path in paths])
            return super().estimate(image, paths) * keep[:, None, None, None]

    image = torch.rand(2, 3, 48, 48)
    transform = SaliencyPerlin(ByPath(), rotation_p=0.0, p=1.0).manual_seed(0)
    first = transform.forge(image, paths=["object.png", "texture.png"])
    assert not first.mask[0, 0, :8].any()
    assert torch.equal(transform.forge(image, params=transform._params).image, first.image)
    with pytest.raises(ValueError, match="no paths"):
        transform.forge(image)


@pytest.mark.parametrize("transform_class", [SaliencyPerlin, DraemPerlin])
def test_container_gives_what_forge_gives(transform_class):
    image = torch.rand(4, 3, 32, 32)
    container = AugmentationSequential(transform_class().manual_seed(4), data_keys=["input", "mask"])
    forged, mask = container(image, torch.zeros(4, 1, 32, 32))
    again = transform_class().manual_seed(4).forge(image)
    assert torch.equal(forged, again.image)
    assert torch.equal(mask, again.mask)


def test_shapes_come_from_the_distribution_of_anomalibs_generator():
    torch.manual_seed(0)
    image = torch.zeros(256, 1, 64, 64)
    ours = DraemPerlin(p=1.0).forge(image).mask.mean((1, 2, 3))
    theirs = PerlinAnomalyGenerator(probability=1.0)(image.expand(-1, 3, -1, -1))[1].mean((1, 2, 3))
    levels = torch.linspace(0, 0.5, 51)[:, None]
    # Kolmogorov and Smirnov: two samples of 256 of one distribution are that far apart in one case of a thousand.
    assert ((ours < levels).float().mean(1) - (theirs < levels).float().mean(1)).abs().max() < 1.95 * (2 / 256) ** 0.5


def test_trains_anomalibs_draem(monkeypatch):
    monkeypatch.setattr("anomalib.models.image.draem.lightning_model.download_and_extract", lambda *_: None)
    torch.manual_seed(0)
    model = Draem()
    model.augmenter = DraemPerlin(p=1.0).with_masks()
    monkeypatch.setattr(model, "log", lambda *_, **__: None)
    loss = model.training_step(ImageBatch(image=torch.rand(2, 3, 32, 32)))["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(weight.grad is not None for weight in model.model.parameters())


def test_with_masks_changes_nothing_in_a_container():
    image = torch.rand(2, 3, 32, 32)
    container = AugmentationSequential(DraemPerlin().with_masks().manual_seed(0), data_keys=["input", "mask"])
    forged, mask = container(image, torch.zeros(2, 1, 32, 32))
    again = DraemPerlin().with_masks().manual_seed(0)(image)
    assert torch.equal(forged, again.image)
    assert torch.equal(mask, again.mask)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": (0.4, 1.2)}, r"threshold \(b\) must lie within"),
        ({"threshold": (0.4,)}, r"threshold must be \(a, b\), got \(0.4,\)"),
        ({"opacity": (0.5, 0.2)}, "opacity must lie within"),
        ({"rotation_p": 2.0}, "rotation_p must lie within"),
        ({"mark": "patch"}, "mark must be 'noise' or 'changed', got 'patch'"),
        ({"redraws": -1}, "redraws must lie within"),
        ({"frequencies": (4, 64)}, r"frequencies must be whole numbers from 1 to 32, got \(4, 64\)"),
        ({"frequencies": ()}, "frequencies must be whole numbers"),
    ],
)
def test_refuses_arguments_out_of_bounds(arguments, message):
    with pytest.raises(ValueError, match=message):
        SaliencyPerlin(**arguments)
