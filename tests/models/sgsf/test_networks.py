"""SGSF's networks: published numbers of weights, work saved, any size, gradients."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from anomalib_anoseg.models.sgsf.networks import AutoEncoder, Convolution, GuidedUNet


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def count_flops(function, *arguments):
    with FlopCounterMode(display=False) as counter:
        result = function(*arguments)
    return counter.get_total_flops() / 1e9, result


@pytest.mark.parametrize(("passes", "millions"), [("fused", 65.2), ("concatenated", 71.5)])
def test_published_numbers_of_parameters(passes, millions):
    with torch.device("meta"):
        assert count(AutoEncoder(), GuidedUNet(passes=passes)) / 1e6 == pytest.approx(millions, abs=0.05)


def test_inference_with_stored_features_does_a_third_of_draems_work():
    from anomalib.models.image.draem.torch_model import DraemModel

    with torch.device("meta"):
        image, autoencoder, segmenter = torch.rand(1, 3, 256, 256), AutoEncoder(), GuidedUNet()
        reference, (_, features) = count_flops(autoencoder, image)
        halves, prepared = count_flops(segmenter.prepare, features)
        segmentation, _ = count_flops(segmenter.segment, image, prepared)
        draem, _ = count_flops(DraemModel().eval(), image)
    assert segmentation == pytest.approx(115.8, abs=0.1)
    assert halves + segmentation == pytest.approx(135.1, abs=0.1)
    assert reference == pytest.approx(77.2, abs=0.1)
    assert draem == pytest.approx(395.9, abs=0.1)


def test_convolving_apart_is_convolving_side_by_side():
    split = Convolution(5, 7, reference_channels=3).eval()
    image, reference = torch.rand(2, 5, 9, 8), torch.rand(2, 3, 9, 8)
    weight = torch.cat((split.from_reference.weight, split.from_image.weight), 1)
    whole = nn.functional.conv2d(torch.cat((reference, image), 1), weight, padding=1)
    torch.testing.assert_close(split(image, split.prepare(reference)), split.norm(whole).relu())


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96)])
@pytest.mark.parametrize("passes", ["fused", "concatenated"])
def test_any_size_comes_back(size, passes):
    image, reference = torch.rand(2, 2, 3, *size)
    reconstruction, features = AutoEncoder(width=0.125)(reference)
    assert reconstruction.shape == (2, 3, *size)
    assert GuidedUNet(0.125, passes=passes)(image, features).shape == (2, 2, *size)
    assert GuidedUNet(0.125, guidance=False, passes=passes)(image).shape == (2, 2, *size)


def test_features_come_at_four_scales():
    _, features = AutoEncoder(width=0.125)(torch.rand(1, 3, 41, 64))
    assert [tuple(feature.shape[1:]) for feature in features] == [(8, 48, 64), (16, 24, 32), (32, 12, 16), (64, 6, 8)]


@pytest.mark.parametrize("passes", ["fused", "concatenated"])
def test_every_scale_of_the_reference_matters(passes):
    segmenter, image = GuidedUNet(0.125, passes=passes).eval(), torch.rand(1, 3, 32, 32)
    _, features = AutoEncoder(width=0.125)(image)
    logits = segmenter(image, features)
    for scale in range(4):
        changed = [feature + (index == scale) for index, feature in enumerate(features)]
        assert not torch.equal(segmenter(image, changed), logits), scale


def test_what_passes_on_is_fused_or_not():
    torch.manual_seed(0)
    image = torch.rand(1, 3, 32, 32)
    _, features = AutoEncoder(width=0.125)(image)
    bottlenecks = {}
    for passes in ("fused", "concatenated"):
        segmenter = GuidedUNet(0.125, passes=passes).eval()
        seen = []
        segmenter.encoder[-1].register_forward_hook(lambda *call, seen=seen: seen.append(call[-1]))
        # A fusion that says nothing: only what goes around it reaches the bottleneck.
        for fusion in segmenter.fusions:
            fusion.norm.weight.data.zero_()
        segmenter(image, features)
        segmenter(image.flip(-1), features)
        bottlenecks[passes] = seen
    assert torch.equal(*bottlenecks["fused"])
    assert not torch.equal(*bottlenecks["concatenated"])


def test_without_guidance_nothing_of_it_is_built():
    plain, guided = GuidedUNet(0.125, guidance=False), GuidedUNet(0.125)
    assert {name.split(".")[0] for name, _ in guided.named_parameters()} - {
        name.split(".")[0] for name, _ in plain.named_parameters()
    } == {"fusions"}
    assert not any("reference" in name for name, _ in plain.named_parameters())


def test_first_weights_are_draems():
    network = AutoEncoder(width=0.5)
    convolution, norm = network.encoder[3].second.from_image, network.encoder[4].second.norm
    assert convolution.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert network.ups[0].weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.01)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_a_convolution_without_a_reference_takes_none():
    with pytest.raises(ValueError, match="takes no reference"):
        Convolution(3, 3).prepare(torch.rand(1, 3, 4, 4))
