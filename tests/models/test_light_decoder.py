"""The light decoder: sizes, what reaches the map, and how much work it is."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from anomalib_anoseg.models.anoseg.torch_model import AnoSegModel
from anomalib_anoseg.models.light_decoder import LightDecoder

LITE0 = (16, 24, 40, 112, 320)


def features(height, width, channels=LITE0):
    scales = [2**scale for scale in range(1, 6)]
    return [torch.rand(2, c, height // s, width // s) for c, s in zip(channels, scales, strict=True)]


def test_logits_have_the_size_of_the_image():
    assert LightDecoder(LITE0)(features(64, 96)).shape == (2, 1, 64, 96)
    assert LightDecoder(LITE0, 2, width=0.25)(features(96, 32)).shape == (2, 2, 96, 32)


def test_sizes_are_those_counted_by_hand():
    narrowed = [16, 24, 40, 64, 64]
    first = sum(9 * c * n + 2 * n for c, n in zip(LITE0, narrowed, strict=True))
    widths = [(64 + 64, 64), (64 + 40, 48), (48 + 24, 32), (32 + 16, 24)]
    stages = sum(9 * seen * out + 2 * out for seen, out in widths)
    head = 24 * 8 * 4 + 8 + 8 * 9 + 1
    assert sum(weight.numel() for weight in LightDecoder(LITE0).parameters()) == first + stages + head == 422_081


@pytest.mark.parametrize("scale", range(5))
def test_every_scale_reaches_the_map(scale):
    decoder, seen = LightDecoder(LITE0).eval(), features(64, 64)
    expected = decoder(seen)
    seen[scale] += 1
    assert not torch.allclose(decoder(seen), expected)


def test_a_pixel_is_doubled_as_it_is():
    """With weights that pass on the coarsest feature, all 32x32 pixels that it covers have its value."""
    decoder = LightDecoder((1,) * 5, width=0.125).eval()
    for layer in decoder.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.zeros_(layer.weight)
            if isinstance(layer, nn.ConvTranspose2d):
                layer.weight.data[0, 0] = 1
            else:
                layer.weight.data[0, 0, 1, 1] = 1
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    coarse = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    others = [torch.zeros(1, 1, 2 ** (6 - scale), 2 ** (6 - scale)) for scale in range(1, 5)]
    decoded = decoder([*others, coarse])
    torch.testing.assert_close(decoded, coarse.repeat_interleave(32, 2).repeat_interleave(32, 3), rtol=1e-3, atol=0)


def test_is_a_third_of_the_work_of_the_published_decoder_in_the_laptop_preset():
    work = {}
    for decoder, width in (("published", 0.25), ("light", 1.0)):
        model = AnoSegModel("tf_efficientnet_lite0", width, False, False, False, skip_connections=True, decoder=decoder)
        with FlopCounterMode(display=False) as counter:
            model.segmenter.decoder(features(128, 128))
        work[decoder] = counter.get_total_flops()
    assert work["light"] < work["published"] / 3


def test_serves_images_of_any_size():
    model = AnoSegModel("mobilenetv3_small_050", 0.25, decoder="light").eval()
    assert model(torch.rand(2, 3, 65, 97)).anomaly_map.shape == (2, 1, 65, 97)
