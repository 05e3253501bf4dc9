"""Where textures come from, and how they are distorted."""

import copy
import math
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps

from anomalib_anoseg.transforms import (
    BatchTextures,
    DraemPerlin,
    NoiseTextures,
    PatternTextures,
    RandomStream,
    SaliencyPerlin,
    TextureFolder,
)
from anomalib_anoseg.transforms.textures import folder as module
from anomalib_anoseg.transforms.textures import patterns
from anomalib_anoseg.transforms.textures.distortions import COSTLY, DISTORTIONS, distort, draw_distortions


@pytest.fixture
def folder(tmp_path):
    """Four plain pictures, in two kinds of files and two folders, and a file that is no picture."""
    for number, name in enumerate(("a.png", "b.jpg", "more/c.PNG", "more/d.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((20, 30, 3), 60 * number, np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def distort_by(name, picture, **values):
    """Apply one distortion to a ``(H, W, 3)`` uint8 picture."""
    drawn = draw_distortions(RandomStream(), 1) | values
    drawn["chosen"] = torch.tensor([[name == other for other in DISTORTIONS]])
    drawn["places"] = torch.tensor([[[name == other] for other in COSTLY]])
    image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].contiguous()
    return (distort(image, drawn, "zeros")[0] * 255).round().permute(1, 2, 0).byte().numpy()


def picture():
    rows, columns = np.mgrid[0:64, 0:64]
    noise = np.random.default_rng(0).normal(0, 5, (64, 64, 3))
    return (np.stack((rows + 90, columns * 2 + 40, rows + columns + 20), -1) + noise).clip(0, 255).astype(np.uint8)


def test_three_distinct_distortions_all_sets_equally_likely():
    stream = RandomStream(generator=torch.Generator().manual_seed(0))
    chosen = torch.cat([draw_distortions(stream, 8)["chosen"] for _ in range(3000)])
    sets = chosen.nonzero()[:, 1].view(-1, 3)  # raises if any image has not just three
    counts = (sets * torch.tensor([100, 10, 1])).sum(1).unique(return_counts=True)[1].double()
    assert len(counts) == len(list(combinations(DISTORTIONS, 3)))
    # The eight of a batch are 15 sets apart, so that 15 counts vary, each shared by eight. Chi-squared with 14 degrees
    # of freedom exceeds this in one case of a thousand.
    assert ((counts - 200).square() / 200).sum() / 8 < 36.1


@pytest.mark.parametrize("count", [1, 2, 8, 11, 32])
def test_places_suffice_for_all_that_chance_chose(count):
    stream = RandomStream(generator=torch.Generator().manual_seed(0))
    for _ in range(200):
        drawn = draw_distortions(stream, count)
        places = drawn["places"]
        assert torch.equal(places.any(2), drawn["chosen"][:, : len(COSTLY)])
        assert (places.sum(0) <= 1).all()
        assert places.shape[2] <= 1 + math.ceil(0.3 * count)


def test_distortions_are_pillows():
    image = picture()
    pillow = Image.fromarray(image)
    assert np.array_equal(distort_by("rotation", image, rotation=torch.tensor([0.0])), image)
    assert np.array_equal(distort_by("invert", image), np.asarray(ImageOps.invert(pillow)))
    posterized = distort_by("posterize", image, posterize=torch.tensor([3]))
    assert np.array_equal(posterized, np.asarray(ImageOps.posterize(pillow, 3)))
    solarized = distort_by("solarize", image, solarize=torch.tensor([99.5 / 255]))
    assert np.array_equal(solarized, np.asarray(ImageOps.solarize(pillow, 100)))
    blurred = distort_by("sharpness", image, sharpness=torch.tensor([0.0]))
    assert np.abs(blurred - np.asarray(pillow.filter(ImageFilter.SMOOTH)).astype(int)).max() <= 1
    for name, reference in (("autocontrast", ImageOps.autocontrast), ("equalize", ImageOps.equalize)):
        assert np.abs(distort_by(name, image) - np.asarray(reference(pillow)).astype(int)).max() <= 2


def test_gamma_and_brightness_by_hand():
    image = np.full((8, 8, 3), 51, np.uint8)
    gamma = distort_by("gamma", image, gamma=torch.tensor([[0.5, 1.0, 2.0]]))
    assert gamma[0, 0].tolist() == [114, 51, 10]
    brighter = distort_by("brightness", image, factor=torch.tensor([1.2]), offset=torch.tensor([10 / 255]))
    assert brighter[0, 0].tolist() == [71, 71, 71]


def test_hue_and_saturation_keep_the_luma():
    image = picture()
    changed = distort_by("color", image, hue=torch.tensor([0.0]), saturation=torch.tensor([0.5]))
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs(changed @ luma - image @ luma).max() < 2
    assert np.ptp(changed, -1).mean() < 0.6 * np.ptp(image, -1).mean()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_plain_pictures_stay_finite_in_all_distortions(value):
    image = np.full((16, 16, 3), value, np.uint8)
    for name in set(DISTORTIONS) - {"rotation"}:  # whose corners are black
        assert np.ptp(distort_by(name, image), (0, 1)).max() == 0


def test_folder_gives_each_of_its_pictures(folder):
    index = torch.tensor([0.0, 0.3, 0.6, 0.999])
    textures = TextureFolder(folder).look_up(torch.rand(4, 3, 24, 16), {"index": index})
    assert textures.shape == (4, 3, 24, 16)
    assert (textures.float().mean((1, 2, 3)) - torch.tensor([0.0, 60, 120, 180])).abs().max() < 2


def test_what_was_read_for_another_size_changes_no_texture(folder):
    noise = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    image = torch.rand(2, 3, 48, 48)
    transform = SaliencyPerlin(textures=folder, p=1.0)
    params = transform.draw(image.shape)
    before = transform.plant(image, params)
    transform.textures._pictures.clear()
    transform(torch.rand(2, 3, 20, 20))
    assert torch.equal(transform.plant(image, params).image, before.image)


def test_folder_is_read_once_a_size_and_not_before_it_is_needed(folder, monkeypatch):
    read = []
    decode = module.decode_image
    monkeypatch.setattr(module, "decode_image", lambda path, mode: read.append(path) or decode(path, mode))
    transform = DraemPerlin(folder, p=1.0)
    assert not read
    for size in (32, 32, 40, 32):
        assert transform(torch.rand(3, 3, size, size)).shape[-1] == size
    assert len(read) == 2 * 4
    assert not copy.deepcopy(transform).textures._pictures
    assert not transform.state_dict()


def test_folder_keeps_within_its_memory(folder):
    textures = TextureFolder(folder, memory=1)
    kept = {20: [20], 400: [20, 400], 30: [20, 400, 30], 300: [30, 300]}
    for side, sides in kept.items():
        textures.look_up(torch.rand(1, 3, side, side), {"index": torch.zeros(1)})
        assert [size[0] for size in textures._pictures] == sides
    assert len(textures._pictures[300, 300]) == 3
    with pytest.raises(ValueError, match="memory must lie within"):
        TextureFolder(folder, memory=0)


def test_missing_folder_says_where_textures_come_from(tmp_path):
    transform = DraemPerlin(tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"no pictures .* in '.*nowhere'.*https://www.robots.ox.ac.uk/~vgg/data"
    ):
        transform(torch.rand(2, 3, 32, 32))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda path: path.write_bytes(b"spoiled"), r"textures: .*x\.png cannot be read \(.*Replace or remove it"),
        (lambda path: path.mkdir(), r"textures: .*x\.png is a folder, not a picture"),
        (lambda path: Image.new("I;16", (8, 8)).save(path), r"textures: .*x\.png has more than 8 bits.*Convert"),
    ],
    ids=["corrupt", "folder", "16 bits"],
)
def test_broken_texture_is_named_in_one_line(tmp_path, spoil, says):
    spoil(tmp_path / "x.png")
    with pytest.raises(ValueError, match=says) as error:
        DraemPerlin(tmp_path)(torch.rand(2, 3, 32, 32))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=says):  # before a training
        DraemPerlin(tmp_path).check_paths([])


def test_grey_images_get_grey_textures(folder):
    assert DraemPerlin(folder, p=1.0)(torch.rand(2, 1, 32, 32)).shape == (2, 1, 32, 32)
    with pytest.raises(ValueError, match=r"1 or 3 channels, got shape \(2, 4, 32, 32\)"):
        DraemPerlin(folder)(torch.rand(2, 4, 32, 32))


def test_batch_serves_as_texture_upside_down_and_shifted():
    image = torch.randint(0, 256, (8, 3, 20, 32)) / 255
    before = image.clone()
    params = {"index": torch.tensor([0.99, 0.5, 0.0, 0.2, 0.3, 0.4, 0.6, 0.7]), "shift": torch.full((8,), 0.25)}
    textures = BatchTextures().look_up(image, params)
    source = image[[7, 4, 0, 1, 2, 3, 4, 5]]
    assert torch.equal(textures, (source * 255).round().byte().flip(-2).roll(6, -2))
    assert torch.equal(textures, BatchTextures().look_up(image.to(memory_format=torch.channels_last), params))
    assert torch.equal(image, before)
    wide = 2 * image - 0.5
    assert torch.equal(BatchTextures().look_up(wide, params), BatchTextures().look_up(wide.clamp(0, 1), params))


def test_noise_becomes_the_texture_that_anomalibs_generator_shows():
    noise = torch.linspace(-1, 1, 64 * 64).view(1, 1, 64, 64)
    texture = NoiseTextures().look_up(torch.rand(1, 3, 64, 64), {"noise": noise})
    expected = (noise * 0.5 + 0.25).clamp(min=0)  # as in its generate_perturbation
    assert torch.equal(texture, (expected * 255).add(0.5).byte())


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_without_a_folder_draem_shows_its_noise(channels):
    image = torch.rand(16, channels, 48, 32)
    forged, mask = DraemPerlin(opacity=(1.0, 1.0), p=1.0).manual_seed(0).forge(image)
    anomalies = forged.movedim(1, -1)[mask[:, 0] == 1]
    assert anomalies.std() > 0.05
    assert torch.equal(anomalies, anomalies[:, :1].expand(-1, channels))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("textures", [BatchTextures(), PatternTextures()])
def test_textures_without_a_folder_have_any_number_of_channels(textures, channels):
    image = torch.rand(4, channels, 32, 48)
    made = textures(image, textures.draw(image.shape, RandomStream()))
    assert made.shape == image.shape
    assert 0 <= made.min() <= made.max() <= 1


def pattern(**numbers):
    """Parameters of a single pattern, black and white, whose other numbers are 0."""
    drawn = torch.tensor([numbers.get(name, 0.0) for name in patterns.NUMBERS])
    return {
        "pattern": drawn.expand(1, patterns.LAYERS, -1),
        "levels": torch.tensor([0.0, 1.0]).expand(1, patterns.LAYERS, -1),
        "colour": torch.full((1, patterns.LAYERS, 3), 0.5),
    }


def test_patterns_are_those_computed_by_hand():
    x = torch.linspace(0, 2 * math.pi, 65)[:64]
    y = x[:48, None]
    stripes, crossing = (2 * x).sin().expand(48, 64), y.sin().expand(48, 64)  # half as many waves, where the ratio is 0
    rings = (2 * torch.hypot(x, y)).sin()
    expected = (stripes, stripes * crossing, (stripes + crossing) / 2, rings)
    for number, wave in enumerate(expected):
        params = pattern(kind=number / 4, width=0.5)
        texture = PatternTextures().look_up(torch.zeros(1, 3, 48, 64), params)
        by_hand = 255 * ((wave / 2).tanh() / 2 + 0.5)
        assert (texture - by_hand).abs().max() <= 1
    (edges,) = PatternTextures().look_up(torch.zeros(1, 3, 48, 64), pattern(width=0.5, sharpness=1.0))
    assert ((edges == 0) | (edges == 255)).float().mean() > 0.85


def test_patterns_are_turned_bent_and_laid_over_each_other():
    image = torch.zeros(1, 3, 64, 64)
    along, across = (PatternTextures().look_up(image, pattern(width=0.5, angle=angle)) for angle in (0.0, 0.5))
    assert (across.int() - along.mT.int()).abs().max() <= 1
    bent = PatternTextures().look_up(image, pattern(width=0.5, bend=1.0))
    assert (along.float().std(-2) < 1).all()
    assert (bent.float().std(-2) > 20).any()
    both = pattern(width=0.5, share=1.0)
    both["pattern"] = both["pattern"].clone()
    both["pattern"][:, 1, patterns.NUMBERS.index("angle")] = 0.5
    expected = (along.float() + across.float()) / 2
    assert (PatternTextures().look_up(image, both) - expected).abs().max() <= 1


def test_patterns_differ_between_images_and_are_muted():
    textures, image = PatternTextures(), torch.rand(16, 3, 64, 64)
    params = textures.draw(image.shape, RandomStream(generator=torch.Generator().manual_seed(0)))
    found = textures.look_up(image, params)
    assert len(found.flatten(1).unique(dim=0)) == 16
    assert (found.float().flatten(1).std(1) > 3).float().mean() > 0.8
    spread = found.amax(1).int() - found.amin(1).int()
    assert 10 < spread.max() <= 255 * 2 * patterns.COLOUR + 1
    part = {name: value[:3] for name, value in params.items()}
    assert torch.equal(textures.look_up(1 - image[:3], part), found[:3])


def test_patterns_are_asked_for_by_name():
    image = torch.rand(4, 3, 64, 64)
    named = SaliencyPerlin("none", textures="patterns", p=1.0).manual_seed(1).forge(image)
    given = SaliencyPerlin("none", textures=PatternTextures(), p=1.0).manual_seed(1).forge(image)
    assert torch.equal(named.image, given.image)
    assert isinstance(SaliencyPerlin(textures="patterns").textures, PatternTextures)
