"""Guidance by patches: the memory, what it makes of an image, and a training from file to file."""

import copy

import numpy as np
import onnxruntime
import openvino
import pytest
import timm
import torch
from anomalib.data.utils import read_image
from anomalib.deploy import TorchInferencer
from anomalib.engine import Engine
from lightning.pytorch import Callback

from anomalib_anoseg import SGSF
from anomalib_anoseg.models.sgsf import patch_memory
from anomalib_anoseg.models.sgsf.patch_memory import PatchMemory, Standardisation, average_patches
from anomalib_anoseg.models.sgsf.patch_model import GUIDED, PatchGuidedModel
from anomalib_anoseg.training.seeding import seeded_weights

BACKBONE = "test_efficientnet"
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
# Of values that anomalib has normalised to [0, 1].
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of the encoder's weights, as timm publishes them; these are random."""
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    with seeded_weights(0):
        network = timm.create_model(BACKBONE)
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(module.weight)
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.fixture
def make(weights):
    """Build SGSF with guidance by patches."""

    def make(seed=0, anomalies=None, **arguments):
        return SGSF(
            (64, 64),
            guidance={"kind": "patches", **arguments.pop("guidance", {})},
            extractor={"name": BACKBONE, "weights": weights, **arguments.pop("extractor", {})},
            bank={"size": 4, "vectors": 64},
            anomalies={"rotation_p": 0.0, "p": 1.0, "pairs": True, **(anomalies or {})},
            network={"width": 0.5, "score_window": 5},
            optimizer={"lr": 3e-3, "averaging": 0.5},
            seed=seed,
            evaluator=False,
            visualizer=False,
            **arguments,
        )

    return make


def fit(model, data, path, ckpt_path=None, **trainer):
    engine = Engine(accelerator="cpu", default_root_dir=path, **({"max_epochs": 1} | QUIET | trainer))
    engine.fit(model, datamodule=copy.deepcopy(data), ckpt_path=ckpt_path)
    return engine


@pytest.fixture(scope="module")
def networks(pictures):
    """Networks with a memory of all patches of three images."""
    with seeded_weights(0):
        model = PatchGuidedModel(BACKBONE, vectors=10_000)
    model.fill_memory(pictures(3), torch.tensor([5, 6, 7]))
    return model.eval()


def test_nearest_is_what_comparing_with_every_vector_finds():
    memory, features = PatchMemory(), torch.randn(2, 3, 4, 5)
    memory.fill(torch.randn(6, 3, 4, 4), torch.arange(6), 50)
    assert len(memory) == 50
    vectors = memory.vectors.float()
    places = torch.cdist(features.movedim(1, -1).flatten(0, 2), vectors).argmin(1)
    expected = vectors[places].view(2, 4, 5, 3).movedim(-1, 1)
    assert torch.equal(memory.nearest(features), expected)


def test_vectors_of_the_own_image_do_not_count():
    memory = PatchMemory()
    features = torch.randn(3, 2, 4, 4).half().float()
    memory.fill(features, torch.tensor([8, 3, 5]), 1000)
    assert torch.equal(memory.nearest(features), features)
    found = memory.nearest(features, torch.tensor([8, 3, -1]))
    assert torch.equal(found[2], features[2])
    for own in (0, 1):
        others = torch.cat([features[i].flatten(1) for i in range(3) if i != own], 1)
        distances = torch.cdist(features[own].flatten(1).T, others.T)
        torch.testing.assert_close((found[own] - features[own]).flatten(1).norm(dim=0), distances.amin(1))


@pytest.mark.parametrize("own", [None, torch.tensor([4, -1, 2])])
def test_looks_up_in_parts_what_one_table_finds(own, monkeypatch, tensor_sizes):
    monkeypatch.setattr(patch_memory, "MAX_PRODUCTS", 180)  # 4 of the 35 rows of an image at a time
    memory, features = PatchMemory(), torch.randn(3, 6, 5, 7)
    memory.fill(torch.randn(5, 6, 3, 3), torch.arange(5), 45)
    with tensor_sizes() as largest:
        found = memory.nearest(features, own)
    assert largest.numbers <= features.numel(), "not the 4,725 products of all rows"
    distance = torch.cdist(features.movedim(1, -1).flatten(1, 2), memory.vectors.float())
    if own is not None:
        distance[(memory.images == own[:, None])[:, None].expand_as(distance)] = torch.inf
    expected = memory.vectors.float()[distance.argmin(2)].mT.reshape(features.shape)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("count", [1, 32, 45])
def test_files_find_the_first_of_the_largest_products(count):
    products = torch.randint(3, (2, 7, count)).float().log()  # many are alike, or minus infinity
    assert torch.equal(patch_memory._largest(products), products.argmax(2))


def test_memory_loads_whatever_its_size():
    full, empty = PatchMemory(), PatchMemory()
    full.fill(torch.randn(2, 3, 4, 4), torch.arange(2), 7)
    empty.load_state_dict(full.state_dict())
    assert torch.equal(empty.vectors, full.vectors)
    assert empty.vectors.dtype == torch.float16


def test_standardised_features_have_no_mean_and_a_deviation_of_one():
    features = torch.randn(5, 4, 6, 6) * torch.tensor([1.0, 2.0, 30.0, 0.0]).view(4, 1, 1) + 3
    layer = Standardisation(4)
    layer.fit(features)
    deviation, mean = torch.std_mean(layer(features), (0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(deviation, torch.tensor([1.0, 1.0, 1.0, 0.0]))


def test_patches_at_the_border_average_what_there_is():
    assert torch.equal(average_patches(torch.ones(1, 1, 3, 4)), torch.ones(1, 1, 3, 4))


def test_references_do_not_differ_from_the_memory(networks, pictures):
    """Of an image in the memory nothing differs; unless its own patches do not count, or something is on it."""
    image = pictures(3) / 255
    guided, others = networks.guide(image), networks.guide(image, torch.tensor([5, 6, 7]))
    for scale in GUIDED:
        assert guided[scale][:, -1].max() < 0.02  # float16
        assert others[scale][:, -1].mean() > 0.1
    image[:, :, 16:32, 40:56] = torch.rand(3, 3, 16, 16)
    distance = networks.guide(image)[GUIDED[0]][:, -1]
    assert distance[:, 4:8, 10:14].mean() > 5 * distance[:, :, :4].mean()


def test_difference_and_distance_belong_together(networks, batch):
    for scale, guided in enumerate(networks.guide(batch())):
        channels = networks.encoder.channels[scale]
        if scale in GUIDED:
            difference = guided[:, channels:-1]
            torch.testing.assert_close(difference.square().mean(1).sqrt(), guided[:, -1])
            assert difference.shape[1] == channels
        else:
            assert guided.shape[1] == channels


def test_looks_up_in_float32_under_autocast(networks, batch):
    expected = networks.guide(batch())
    with torch.autocast("cpu", torch.bfloat16):
        for found, wanted in zip(networks.guide(batch()), expected, strict=True):
            assert torch.equal(found, wanted)


def test_takes_images_of_any_size(networks, batch):
    prediction = networks(batch(size=(65, 97)))
    assert prediction.anomaly_map.shape == (2, 1, 65, 97)
    assert prediction.anomaly_map.min() >= 0
    assert prediction.anomaly_map.max() <= 1


def test_needs_references():
    with pytest.raises(RuntimeError, match="no references yet: train the model"):
        PatchGuidedModel(BACKBONE)(torch.rand(1, 3, 64, 64))


def test_memory_of_the_laptops_encoder_is_as_small_as_said(pictures):
    model = PatchGuidedModel("tf_efficientnet_lite0")
    model.fill_memory(pictures(16, (128, 128)), torch.arange(16))
    assert sum(memory.vectors.numel() for memory in model.memories) == 1024 * (24 + 40 + 112)
    assert sum(memory.vectors.nbytes for memory in model.memories) == 360_448
    assert sum(weight.numel() for weight in model.trained_parameters()) < 560_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"extractor": {"weights": False}}, r"guidance.kind='patches' needs extractor.weights, .* weights=False"),
        ({"extractor": {"size": 64}}, r"needs .*extractor.size=None; got .*size=64"),
        ({"extractor": {"name": "vit_tiny_patch16_224"}}, r"extractor.name must"),
        (
            {"guidance": {"denoise": True}},
            r"guidance.denoise=True guides by the denoised image, in place of references",
        ),
    ],
)
def test_refuses_settings_that_do_not_fit(arguments, message, make):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_pairs_are_the_image_as_it_is_and_its_forgery(make, tiny_data, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(PatchGuidedModel, "update_average", lambda _, *arguments: seen.append(arguments))
    fit(make(), tiny_data, tmp_path, limit_train_batches=1, limit_val_batches=0)
    ((image, own, _),) = seen
    normal, forged = image.chunk(2)
    changed = (normal != forged).any(1)
    assert changed.flatten(1).any(1).all()
    assert changed.float().mean() < 0.5
    assert torch.equal(*own.chunk(2))
    assert len(own.unique()) == len(own) / 2, "each image is a place of its own"


def test_decoder_learns_and_encoder_does_not(make, tiny_data, tmp_path, weights):
    model = make()
    before = copy.deepcopy(model.model.decoder.state_dict())
    fit(model, tiny_data, tmp_path, limit_val_batches=0)
    after = model.model.decoder.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in after if name.endswith("weight"))
    loaded = torch.load(weights)
    encoder = model.model.encoder.network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in encoder.items())


def test_two_fits_give_equal_weights_and_so_does_a_resumed_one(make, tiny_data, tmp_path):
    first, second, other, resumed = make(), make(), make(seed=1), make()
    fit(first, tiny_data, tmp_path / "first", max_epochs=2)
    torch.manual_seed(99)
    fit(second, tiny_data, tmp_path / "second", max_epochs=2)
    fit(other, tiny_data, tmp_path / "other", max_epochs=2)
    fit(make(max_epochs=None), tiny_data, tmp_path / "half", max_epochs=2, callbacks=[StopAfterFirstEpoch()])
    (checkpoint,) = (tmp_path / "half").rglob("*.ckpt")
    fit(resumed, tiny_data, tmp_path / "resumed", max_epochs=2, ckpt_path=checkpoint)
    for model in (second, resumed):
        for name, value in first.model.state_dict().items():
            assert torch.equal(value, model.model.state_dict()[name]), name
    assert not torch.equal(first.model.decoder.head.weight, other.model.decoder.head.weight)


class StopAfterFirstEpoch(Callback):
    """Ends a training when its second epoch begins, as a kill does."""

    def on_train_epoch_start(self, trainer, pl_module):
        del pl_module
        trainer.should_stop = trainer.current_epoch == 1


@pytest.fixture(scope="module")
def trained(module_data, weights, tmp_path_factory):
    root = tmp_path_factory.mktemp("patches")
    model = SGSF(
        (64, 64),
        guidance={"kind": "patches"},
        extractor={"name": BACKBONE, "weights": weights},
        bank={"size": 4, "vectors": 64},
        anomalies={"rotation_p": 0.0, "p": 1.0, "pairs": True},
        network={"width": 0.5, "score_window": 5},
        optimizer={"lr": 3e-3, "averaging": 0.5},
        visualizer=False,
    )
    engine = fit(model, module_data, root, max_epochs=8, check_val_every_n_epoch=8)
    (checkpoint,) = root.rglob("*.ckpt")
    return model.eval(), engine, checkpoint


@pytest.fixture
def images(tiny_root):
    return torch.stack([read_image(path, as_tensor=True) for path in sorted(tiny_root.glob("*/test/*/*.png"))])


def test_checkpoint_predicts_without_weights_or_training_images(trained, images):
    model, _, checkpoint = trained
    restored = SGSF.load_from_checkpoint(checkpoint, weights_only=True, extractor={"name": BACKBONE, "weights": "gone"})
    for one, other in zip(model(images), restored.eval()(images), strict=True):
        assert torch.equal(one, other)
    assert model.references is None


def test_files_of_one_size_predict_what_the_model_does(trained, images, tmp_path):
    model = copy.deepcopy(trained[0])
    expected = model(images)
    assert expected.anomaly_map.std() > 0.01
    path = model.to_onnx(tmp_path, input_size=(64, 64))
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for number, image in enumerate(images[:, None].numpy()):
        results = compiled(image)
        for outputs in (
            dict(zip(names, session.run(None, {"input": image}), strict=True)),
            {name: results[name] for name in names},
        ):
            for name in ("anomaly_map", "pred_score"):
                wanted = getattr(expected, name)[number].numpy()
                np.testing.assert_allclose(outputs[name].reshape(wanted.shape), wanted, atol=TOLERANCE)


def test_torch_file_predicts_what_the_model_does_and_has_no_training_parts(
    trained, images, tiny_root, tmp_path, monkeypatch
):
    model = copy.deepcopy(trained[0])
    path = model.to_torch(tmp_path)
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    inferencer = TorchInferencer(path, device="cpu")
    assert inferencer.model.augmenter is None
    assert inferencer.model.model.averaged is None
    for index, file in enumerate(sorted(tiny_root.glob("*/test/*/*.png"))):
        map_of_file = inferencer.predict(str(file)).anomaly_map.squeeze()
        torch.testing.assert_close(
            map_of_file, model(images[index : index + 1]).anomaly_map.squeeze(), atol=1e-4, rtol=0
        )
