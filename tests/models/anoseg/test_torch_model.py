"""AnoSeg's networks: published shapes, any size, gradients, averaging, tiling."""

import copy

import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils.tiler import Tiler

from anomalib_anoseg.models.anoseg.networks import Decoder, Discriminator
from anomalib_anoseg.models.anoseg.torch_model import AnoSegModel
from anomalib_anoseg.models.encoder import CoordinateEncoder
from anomalib_anoseg.models.network_parts import scale_channels


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_published_sizes():
    encoder, decoder, discriminator = CoordinateEncoder(), Decoder([64, 64, 128, 256, 512], 3), Discriminator()
    features = encoder(encoder.with_coordinates(torch.rand(1, 3, 256, 256)))
    assert features[-1].shape == (1, 512, 8, 8)
    assert decoder(features).shape == (1, 3, 256, 256)
    assert discriminator.features(torch.rand(1, 4, 256, 256)).shape == (1, 128, 2, 2)
    assert count(encoder) == pytest.approx(11.18e6, rel=0.005)
    assert count(decoder) == pytest.approx(10.3e6, rel=0.01)
    assert count(discriminator) == pytest.approx(12.2e6, rel=0.01)


def test_laptop_width_has_fewer_than_8_million_parameters_at_inference():
    assert count(AnoSegModel(width=0.25).segmenter) < 8e6


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (128, 72)])
def test_any_size_comes_back(size):
    model, image = AnoSegModel(width=0.125, averaging=0.9), torch.rand(2, 3, *size)
    output = model(image)
    assert output.logits.shape == (2, 1, *size)
    assert output.reconstruction.shape == (2, 3, *size)
    prediction = model.eval()(image)
    assert isinstance(prediction, InferenceBatch)
    assert prediction.anomaly_map.shape == (2, 1, *size)
    assert prediction.pred_score.shape == (2,)
    for values in (output.reconstruction, prediction.anomaly_map, prediction.pred_score):
        assert values.min() >= 0
        assert values.max() <= 1


@pytest.mark.parametrize("size", [(64, 64), (65, 127), (128, 200), (256, 256), (256, 640)])
def test_discriminator_adapts(size):
    discriminator = Discriminator(width=0.125)
    assert discriminator.features(torch.rand(2, 4, *size)).shape[-2:] == (2, 2)
    assert discriminator(torch.rand(2, 4, *size)).shape == (2,)


def test_coordinates_run_from_minus_one_to_one():
    inputs = CoordinateEncoder(width=0.125).with_coordinates(torch.rand(2, 3, 5, 9))
    assert torch.allclose(inputs[0, 3, :, 4], torch.linspace(-1, 1, 5))
    assert torch.allclose(inputs[1, 4, 2], torch.linspace(-1, 1, 9))


def test_every_parameter_gets_a_finite_gradient():
    model = AnoSegModel(width=0.125)
    output = model(torch.rand(2, 3, 256, 256))
    pair = torch.cat((output.reconstruction, output.logits.sigmoid()), 1)
    (model.discriminator(pair).sum() + output.logits.sum() + output.reconstruction.sum()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_adversarial_gradient_reaches_encoder_and_both_decoders():
    model = AnoSegModel(width=0.125)
    output = model(torch.rand(2, 3, 64, 64))
    model.discriminator(torch.cat((output.reconstruction, output.logits.sigmoid()), 1)).sum().backward()
    for part in (model.segmenter.encoder.network.conv1, model.segmenter.decoder, model.reconstruction_decoder):
        assert all(parameter.grad.abs().sum() > 0 for parameter in part.parameters() if parameter.ndim == 4)


@pytest.mark.parametrize(
    ("switches", "absent"),
    [
        ({"reconstruction": False, "adversarial": False}, ("reconstruction_decoder", "discriminator")),
        ({"adversarial": False}, ("discriminator",)),
    ],
)
def test_switched_off_networks_are_not_built(switches, absent):
    model = AnoSegModel(width=0.125, **switches)
    assert all(getattr(model, name) is None for name in absent)
    model(torch.rand(2, 3, 64, 64))


def test_coordinates_can_be_switched_off():
    assert next(AnoSegModel(width=0.125, coordinates=False).parameters()).shape[1] == 3
    assert next(AnoSegModel(width=0.125).parameters()).shape[1] == 5


def test_evaluation_uses_the_averaged_weights():
    model, image = AnoSegModel(width=0.125, averaging=0.9), torch.rand(2, 3, 64, 64)
    before = model.eval()(image).anomaly_map
    with torch.no_grad():
        for parameter in model.segmenter.parameters():
            parameter.mul_(1.5)
    assert torch.equal(model(image).anomaly_map, before)
    for step in range(1, 200):
        model.update_average(image, step)
    assert not torch.allclose(model(image).anomaly_map, before)
    model.drop_training_parts()
    assert {name for name, _ in model.named_children()} == {"segmenter", "region"}


def test_evaluation_starts_with_statistics_of_the_last_images():
    model, image = AnoSegModel(width=0.125, averaging=0.9), torch.rand(4, 3, 64, 64)
    for step in range(1, 10):
        model.update_average(torch.rand(4, 3, 64, 64) if step < 6 else image, step)
    norm = model.averaged.module.encoder.network.bn1
    seen = model.averaged.module.encoder.network.conv1(model.segmenter.encoder.with_coordinates(image))
    fresh = norm.running_mean.clone()
    model.eval()
    assert torch.equal(norm.running_mean, fresh), "a switch computes nothing"
    model.prepare_for_evaluation()
    torch.testing.assert_close(norm.running_mean, seen.mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    statistics = norm.running_mean.clone()
    model.train().prepare_for_evaluation()
    assert torch.equal(norm.running_mean, statistics), "without new steps there is nothing to compute"
    assert not model.averaged.module.training


def test_tiles_see_what_whole_images_see():
    model, image = AnoSegModel(width=0.125).eval(), torch.rand(1, 3, 128, 192)
    whole = model(image)
    model.tiler = Tiler(tile_size=64, stride=64)
    tiled = model(image)
    assert tiled.anomaly_map.shape == whole.anomaly_map.shape
    inputs = model.segmenter.encoder.with_coordinates(image)
    corner = model.segmenter(inputs[..., :64, 64:128])[0].sigmoid()
    torch.testing.assert_close(tiled.anomaly_map[..., :64, 64:128], corner)


def test_tiles_train():
    model = AnoSegModel(width=0.125)
    model.tiler = Tiler(tile_size=64, stride=32)
    output = model(torch.rand(2, 3, 128, 128))
    assert output.logits.shape == (2, 1, 128, 128)
    (output.logits.sum() + output.reconstruction.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.generator_parameters())


def test_skip_connections_carry_detail_to_the_map_alone():
    model = AnoSegModel(width=0.125, skip_connections=True)
    inputs = torch.rand(2, 5, 64, 64)
    features = model.segmenter.encoder(inputs)
    blurred = [torch.zeros_like(feature) for feature in features[:-1]] + features[-1:]
    assert not torch.equal(model.segmenter.decoder(features), model.segmenter.decoder(blurred))
    assert torch.equal(model.reconstruction_decoder(features), model.reconstruction_decoder(blurred))
    assert model(torch.rand(2, 3, 65, 97)).logits.shape == (2, 1, 65, 97)


def test_other_backbones():
    model = AnoSegModel("mobilenetv3_small_050", width=0.125).eval()
    assert model(torch.rand(1, 3, 64, 96)).anomaly_map.shape == (1, 1, 64, 96)


@pytest.mark.parametrize("backbone", ["no_such_network", "vit_tiny_patch16_224"])
def test_refuses_backbones_that_do_not_fit(backbone):
    with pytest.raises(ValueError, match="backbone must"):
        CoordinateEncoder(backbone)


def test_pretrained_weights_come_from_a_file(tmp_path):
    import timm

    source = timm.create_model("resnet18")
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = AnoSegModel(averaging=0.9)
    model.load_pretrained(str(tmp_path / "weights.pth"))
    for encoder in (model.segmenter.encoder, model.averaged.module.encoder):
        assert torch.equal(encoder.network.layer1[0].conv1.weight, source.layer1[0].conv1.weight)


def pretend_to_know(encoder):
    """Give an encoder statistics as after a training: not those with which it starts, nor of random images."""
    for name, buffer in encoder.network.named_buffers():
        buffer.fill_(3 if name.endswith("num_batches_tracked") else 0.5)


def test_a_frozen_encoder_stays_as_it_is():
    model = AnoSegModel(width=0.125, averaging=0.9, coordinates=False, frozen=True)
    pretend_to_know(model.segmenter.encoder)
    model.averaged.set(model.segmenter)
    encoders = [model.segmenter.encoder, model.averaged.module.encoder]
    before = copy.deepcopy(encoders[0].state_dict())
    optimizer = torch.optim.Adam(model.generator_parameters())
    for step in (1, 2):
        image = torch.rand(2, 3, 64, 64)
        output = model.train()(image)
        (output.logits.mean() + output.reconstruction.mean()).backward()
        optimizer.step()
        model.update_average(image, step)
        model.prepare_for_evaluation()
        model(image)
    for encoder in encoders:
        assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    model.requires_grad_(True)  # as Lightning's unfreeze does
    trained = {id(parameter) for parameter in model.generator_parameters()}
    assert not trained & {id(parameter) for parameter in encoders[0].parameters()}
    assert trained >= {id(parameter) for parameter in model.segmenter.decoder.parameters()}


def test_a_frozen_encoder_encodes_in_training_as_in_evaluation():
    encoder = CoordinateEncoder(width=0.125, coordinates=False, frozen=True)
    pretend_to_know(encoder)
    image = torch.rand(2, 3, 64, 64)
    for expected, features in zip(encoder.eval()(image), encoder.train()(image), strict=True):
        assert torch.equal(features, expected)
    assert not encoder.network.training


def test_pretrained_weights_need_the_full_width():
    with pytest.raises(ValueError, match=r"pre_trained weights fit network\.width=1 alone"):
        AnoSegModel(width=0.25).load_pretrained("weights.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"pre_trained: there is no file '.*weights\.pth'"),
        (b"no weights", r"pre_trained: '.*weights\.pth' does not hold timm's weights of 'resnet18': "),
        ({"other": torch.zeros(1)}, "does not hold timm's weights of 'resnet18': '?conv1.weight"),
    ],
)
def test_refuses_files_that_hold_no_weights(content, message, tmp_path):
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        AnoSegModel().load_pretrained(str(path))


def test_tells_what_to_do_without_a_network(monkeypatch):
    def fail(*_, **__):
        raise FileNotFoundError("There is no connection.\nSee more.")

    encoder = CoordinateEncoder()
    monkeypatch.setattr("anomalib_anoseg.models.pretrained.timm.create_model", fail)
    with pytest.raises(ValueError, match=r"of 'resnet18': There is no connection\. Without a network connection,"):
        encoder.load_pretrained()


@pytest.mark.parametrize("coordinates", [True, False])
@pytest.mark.parametrize(("backbone", "mean", "std"), [("resnet18", 0.485, 0.229), ("tf_efficientnet_lite0", 0.5, 0.5)])
def test_pretrained_weights_see_what_they_were_trained_on(backbone, mean, std, coordinates):
    encoder = CoordinateEncoder(backbone, coordinates=coordinates, normalize=True)
    image = torch.rand(2, 3, 64, 96)
    inputs = encoder.with_coordinates(image)
    torch.testing.assert_close(inputs[:, 0], (image[:, 0] - mean) / std)
    assert torch.equal(
        inputs[:, 3:], CoordinateEncoder(backbone, coordinates=coordinates).with_coordinates(image)[:, 3:]
    )
    assert {"mean", "std"} < set(encoder.state_dict())


def test_other_weights_see_images_as_they_are():
    encoder, image = CoordinateEncoder(width=0.125), torch.rand(2, 3, 64, 96)
    assert torch.equal(encoder.with_coordinates(image)[:, :3], image)
    assert not {"mean", "std"} & set(encoder.state_dict())


def test_channels_scale_to_multiples_of_eight():
    assert scale_channels((64, 128, 512), 0.25) == (16, 32, 128)
    assert scale_channels((64,), 0.01) == (8,)


def test_maps_keep_their_precision_under_autocast():
    model = AnoSegModel(width=0.125).eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        output = model(torch.rand(1, 3, 64, 64))
    assert output.anomaly_map.dtype == output.pred_score.dtype == torch.float32
