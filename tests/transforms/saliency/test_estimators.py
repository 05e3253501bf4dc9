"""Estimators of saliency: what they find, when they find nothing, and what they cost."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage import data
from torch import Tensor

from anomalib_anoseg.transforms.saliency import BorderContrast, NoSaliency, Saliency, SpectralResidual, resize_saliency
from anomalib_anoseg.transforms.saliency.estimators import _median_and_deviation

ESTIMATORS = [NoSaliency(), BorderContrast(), SpectralResidual()]


@pytest.fixture(params=ESTIMATORS, ids=lambda estimator: type(estimator).__name__)
def estimator(request) -> Saliency:
    return request.param


def picture(name: str) -> Tensor:
    """A picture that scikit-image ships, ``(1, 3, 256, 256)``."""
    gray = torch.from_numpy(getattr(data, name)()).float()
    gray /= gray.max()
    return torch.nn.functional.interpolate(gray.expand(1, 3, -1, -1), (256, 256), mode="area")


def object_before_background(seed: int = 0) -> tuple[Tensor, Tensor]:
    """A disc that is brighter than its noisy background, and where it is."""
    rows, columns = torch.arange(96.0)[:, None], torch.arange(120.0)
    disc = ((rows - 40).square() + (columns - 70).square() < 22**2)[None, None]
    noise = torch.randn(1, 3, 96, 120, generator=torch.Generator().manual_seed(seed))
    return (0.3 + 0.4 * disc + 0.02 * noise).clamp(0, 1), disc


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(64, 64), (61, 97), (16, 300)])
def test_maps_have_the_images_size_and_lie_between_0_and_1(estimator, dtype, size):
    saliency = estimator(torch.rand(2, 3, *size).to(dtype))
    assert saliency.shape == (2, 1, *size)
    assert saliency.dtype == torch.float32
    assert saliency.min() >= 0
    assert saliency.max() <= 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_nothing_stands_out_of_a_plain_image(estimator, value):
    assert estimator(torch.full((1, 3, 64, 64), value)).count_nonzero() == 0


@pytest.mark.parametrize("name", ["brick", "grass", "gravel"])
def test_maps_of_textures_are_empty(estimator, name):
    assert estimator(picture(name)).mean() < 1e-3


def test_small_maps_are_what_is_enlarged(estimator):
    image, _ = object_before_background()
    assert torch.equal(resize_saliency(estimator.small(image), image.shape[-2:]), estimator(image))


def test_spread_of_the_border_is_the_median_distance_from_its_median():
    for count in (1, 2, 9, 240):
        values = torch.randn(2, 3, count).round(decimals=1)  # some are equal
        center, spread = _median_and_deviation(values)
        assert torch.equal(center, values.sort(-1).values[..., count // 2, None])
        assert torch.equal(spread, (values - center).abs().sort(-1).values[..., count // 2, None])


def test_border_contrast_finds_the_object():
    image, disc = object_before_background()
    found = BorderContrast()(image) > 0.5
    assert (found & disc).sum() / (found | disc).sum() > 0.9


def test_border_contrast_finds_a_real_object():
    horse = picture("horse")
    found, dark = BorderContrast()(horse) > 0.5, horse[:, :1] < 0.5
    assert (found & dark).sum() / (found | dark).sum() > 0.9


def test_border_contrast_finds_an_object_that_leaves_the_image():
    image = torch.full((1, 3, 64, 64), 0.2)
    image[..., 10:, 25:45] = 0.9
    saliency = BorderContrast()(image)
    assert saliency[..., 16:, 28:42].min() == 1
    assert saliency[..., :5, :].max() == 0


def test_border_contrast_does_not_stretch_what_nobody_notices():
    image = torch.full((1, 3, 64, 64), 0.5)
    image[..., 20:40, 20:40] = 0.5 + 2 / 255
    assert BorderContrast()(image).count_nonzero() == 0


def test_border_contrast_is_measured_in_spreads_of_the_border():
    image = torch.full((1, 3, 64, 64), 0.5)
    image[..., 20:40, 20:40] += 0.15
    coarse = image + 0.15 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert BorderContrast()(image).mean() > 0.05
    assert BorderContrast()(coarse.clamp(0, 1)).mean() < 1e-3


def test_border_contrast_passes_over_specks():
    image = torch.full((1, 3, 64, 64), 0.2)
    image[..., 30:34, 30:34] = 0.9
    assert BorderContrast()(image).count_nonzero() == 0
    assert BorderContrast(area=0.002)(image).mean() > 1e-3


def test_border_contrast_empties_the_map_of_what_is_as_frequent_on_the_border():
    image = torch.full((1, 3, 64, 64), 0.2)
    image[:, :, ::8, :] = 0.9
    assert BorderContrast()(image).count_nonzero() == 0
    assert BorderContrast(ratio=1.0, border=0.2)(image).shape == (1, 1, 64, 64)


def test_spectral_residual_equals_the_published_listing():
    image, _ = object_before_background()
    gray = torch.nn.functional.interpolate(image.mean(1, keepdim=True), (52, 64), mode="area")
    spectrum = np.fft.fft2(gray[0, 0].double().numpy())
    logarithm = np.log(np.abs(spectrum))
    residual = logarithm - ndimage.uniform_filter(logarithm, 3, mode="wrap")
    back = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    expected = ndimage.gaussian_filter(back, 2.5, mode="mirror", radius=5)
    found = SpectralResidual().residual(gray)[0, 0]
    # Ours passes over amplitudes of the size of rounding errors, hence not equal to the last digit.
    assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.999
    assert found.mean() == pytest.approx(1)


def test_spectral_residual_finds_a_spot():
    image = 0.4 + 0.05 * torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    image[..., 30:36, 12:18] = 0.9
    salient = SpectralResidual()(image)
    assert salient[..., 30:36, 12:18].min() == 1
    assert salient[..., 48:, 32:].max() == 0


def test_a_map_does_not_depend_on_the_batch(estimator):
    images = torch.cat([object_before_background()[0], torch.rand(2, 3, 96, 120)])
    together = estimator(images)
    for each in range(3):
        torch.testing.assert_close(estimator(images[each, None]), together[each, None])


def test_makes_no_host_synchronisation_and_no_loop_over_the_batch(estimator, count_operations):
    operations = []
    for batch_size in (2, 16):
        image = torch.rand(batch_size, 3, 96, 96)
        with count_operations() as counter:
            estimator(image)
        assert counter.synchronisations == 0
        operations.append(counter.operations)
    assert operations[0] == operations[1]


def test_autocast_and_gradients_do_not_touch_it(estimator):
    image, _ = object_before_background()
    expected = estimator(image)
    with torch.autocast("cpu", torch.bfloat16):
        again = estimator(image.clone().requires_grad_())
    assert torch.equal(again, expected)
    assert not again.requires_grad


def test_has_no_weights_copies_and_pickles(estimator):
    image, _ = object_before_background()
    assert not estimator.state_dict()
    assert torch.equal(copy.deepcopy(estimator)(image), estimator(image))
    assert torch.equal(pickle.loads(pickle.dumps(estimator))(image), estimator(image))


@pytest.mark.parametrize(
    ("cls", "arguments", "message"),
    [
        (BorderContrast, {"spreads": (8.0, 4.0)}, "spreads must lie within"),
        (BorderContrast, {"border": 0.0}, "border must lie within"),
        (BorderContrast, {"ratio": 0.5}, "ratio must lie within"),
        (BorderContrast, {"area": 1.5}, "area must lie within"),
        (BorderContrast, {"size": 8}, "size must lie within"),
        (SpectralResidual, {"size": 8}, "size must lie within"),
        (SpectralResidual, {"threshold": 1.0}, "threshold must lie within"),
        (SpectralResidual, {"sigma": 9.0}, "sigma must lie within"),
    ],
)
def test_refuses_arguments_out_of_range(cls, arguments, message):
    with pytest.raises(ValueError, match=message):
        cls(**arguments)
