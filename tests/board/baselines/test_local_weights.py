"""anomalib's models from local files, and judges that treat all alike."""

import inspect
import shutil
import socket

import pytest
import timm
import torch
from anomalib.data import ImageBatch
from anomalib.engine import Engine
from anomalib.models import Padim
from anomalib.models.image.draem.torch_model import DiscriminativeSubNetwork, ReconstructiveSubNetwork
from lightning.pytorch import Trainer

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.board.baselines import ConstantMap, LocalDraem, PadimLite0, PatchcoreLite0, SupersimplenetLite0
from anomalib_anoseg.board.baselines.local_weights import LITE0, local_weights
from anomalib_anoseg.board.run import protocol
from anomalib_anoseg.board.run.protocol import as_figures, is_trivial
from anomalib_anoseg.common.offline import OfflineError, no_network
from anomalib_anoseg.deploy.rebuild import class_path, keep_order, load_model

SIZE = (64, 64)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file as timm's, with numbers of our own."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save(timm.create_model(LITE0, pretrained=False).state_dict(), path)
    return path


@pytest.fixture(autouse=True)
def narrow_draem(monkeypatch):
    """DRAEM with an eighth of its channels: its 97 million parameters would take most of these tests' time."""
    for network, width in ((ReconstructiveSubNetwork, 16), (DiscriminativeSubNetwork, 8)):
        defaults = inspect.signature(network).parameters
        own = [width if name == "base_width" else parameter.default for name, parameter in defaults.items()]
        monkeypatch.setattr(network.__init__, "__defaults__", tuple(own))


@pytest.fixture
def textures(tiny_root):
    return str(tiny_root / "stripes" / "test")


def fit(model, data, path, epochs=1):
    engine = Engine(
        accelerator="cpu",
        default_root_dir=path,
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    engine.fit(model, datamodule=data)
    return engine


BASELINES = {
    "PadimLite0": lambda weights, _: PadimLite0(str(weights), n_features=8, image_size=SIZE),
    "PatchcoreLite0": lambda weights, _: PatchcoreLite0(str(weights), image_size=SIZE),
    "SupersimplenetLite0": lambda weights, _: SupersimplenetLite0(str(weights), image_size=(96, 96), max_epochs=1),
    "LocalDraem": lambda _, textures: LocalDraem("textures", textures, image_size=SIZE, max_epochs=1),
    "LocalDraem perlin": lambda _, textures: LocalDraem("draem_perlin", textures, image_size=SIZE, max_epochs=1),
    "LocalDraem forged": lambda *_: LocalDraem("hard_cut_paste", image_size=SIZE, max_epochs=1),
}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_train_offline_find_thresholds_and_come_back(name, weights, textures, tiny_data, tmp_path):
    weights = shutil.copy(weights, tmp_path / "lite0.pth")
    textures = shutil.copytree(textures, tmp_path / "textures")
    with no_network():
        model = protocol.apply(BASELINES[name](weights, str(textures)))
        model.visualizer = None
        engine = fit(model, tiny_data, tmp_path)
    engine.validate(model, datamodule=tiny_data, verbose=False)
    assert model.post_processor.calibrated_on == "forged on held-out images"
    assert model.post_processor.image_threshold.isfinite()
    assert model.post_processor.pixel_threshold.isfinite()
    assert model.post_processor.pixel_min < model.post_processor.pixel_max
    path = tmp_path / "model.ckpt"
    engine.trainer.save_checkpoint(path, weights_only=True)
    weights.unlink()  # a checkpoint is all that is needed
    shutil.rmtree(textures)
    with no_network():
        again = keep_order(load_model(path, class_path(type(model))))
    image = torch.rand(1, 3, 80, 80)
    with torch.no_grad():
        assert torch.equal(again(image).anomaly_map, model.eval()(image).anomaly_map)


@pytest.mark.parametrize("make", [PadimLite0, PatchcoreLite0, SupersimplenetLite0])
def test_features_come_from_the_file(make, weights):
    expected = torch.load(weights)["conv_stem.weight"]
    features = {name: value for name, value in make(str(weights)).state_dict().items() if "conv_stem" in name}
    assert len(features) >= 1
    assert all(torch.equal(value, expected) for value in features.values())
    untrained = make("random").state_dict()
    assert not any(torch.equal(untrained[name], expected) for name in features)


def test_timm_is_left_as_it_was(weights):
    before = timm.get_pretrained_cfg(LITE0)
    with local_weights(LITE0, weights):
        assert timm.create_model(LITE0, pretrained=True).conv_stem.weight.equal(torch.load(weights)["conv_stem.weight"])
    assert timm.get_pretrained_cfg(LITE0) == before


@pytest.mark.parametrize("make", [PadimLite0, PatchcoreLite0, SupersimplenetLite0])
def test_missing_weights_get_a_clear_error(make):
    with pytest.raises(FileNotFoundError, match=r"weights: 'nowhere' does not exist\. Give a local file"):
        make("nowhere")


def test_images_too_small_for_supersimplenet_get_a_clear_error():
    with pytest.raises(ValueError, match=r"image_size must be more than 64 pixels each way, got \(64, 96\)"):
        SupersimplenetLite0("random", image_size=(64, 96))


def test_weights_of_another_model_get_a_clear_error(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"does not hold timm's tf_efficientnet_lite0: \d+ tensors such as 'blocks"):
        PadimLite0(str(tmp_path / "other.pth"))


def test_unknown_backbone_gets_a_clear_error():
    with (
        pytest.raises(ValueError, match="backbone must be a timm model with pre-trained weights, got 'nothing'"),
        local_weights("nothing", "random"),
    ):
        pass


@pytest.mark.parametrize("anomalies", ["draem_perlin", "hard_cut_paste"])
def test_draem_forges_about_half_of_the_images_and_marks_what_it_changes(anomalies):
    torch.manual_seed(0)
    images = torch.rand(64, 3, 64, 64)
    forged, masks = LocalDraem(anomalies, image_size=SIZE).augmenter(images)
    assert forged.shape == images.shape
    assert masks.shape == (64, 1, 64, 64)
    changed = (forged != images).flatten(1).any(1)
    assert 20 < changed.sum() < 44
    assert torch.equal(masks.flatten(1).any(1), changed)


def test_options_of_the_base_reach_it():
    assert PadimLite0("random", n_features=20).model.n_features == 20
    assert PadimLite0("random").model.n_features == 100
    assert PatchcoreLite0("random", coreset_sampling_ratio=1).coreset_sampling_ratio == 1
    with pytest.raises(TypeError, match="no_such_option"):
        PadimLite0("random", no_such_option=1)


def test_own_length_reaches_the_trainer():
    assert SupersimplenetLite0("random", max_epochs=3).trainer_arguments["max_epochs"] == 3
    assert LocalDraem("hard_cut_paste", max_epochs=7).trainer_arguments["max_epochs"] == 7
    assert "max_epochs" not in LocalDraem("hard_cut_paste").trainer_arguments


def test_draem_without_textures_gets_a_clear_error():
    with pytest.raises(FileNotFoundError, match=r"dtd_dir: DRAEM needs a folder .* Or set anomalies to draem_perlin"):
        LocalDraem()
    with pytest.raises(FileNotFoundError, match="dtd_dir: 'nowhere' does not exist"):
        LocalDraem(dtd_dir="nowhere")
    with pytest.raises(ValueError, match="anomalies must be 'textures', 'draem_perlin' or 'hard_cut_paste', got 'x'"):
        LocalDraem(anomalies="x")


def test_a_model_whose_weights_were_pretrained_comes_back_as_it_is(tmp_path):
    model = AnoSeg(SIZE, network={"width": 0.125}, encoder={"pre_trained": "nowhere.pth"})
    trainer = Trainer(accelerator="cpu", logger=False)
    trainer.strategy.connect(model)
    trainer.save_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    again = load_model(tmp_path / "model.ckpt", "anomalib_anoseg.AnoSeg")
    image = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(again(image).anomaly_map, model.eval()(image).anomaly_map)


def test_normalised_images_are_forged_in_their_own_colours(tiny_data):
    """What a model sees of a defect must not depend on whether its images are normalised."""
    from anomalib.data import InferenceBatch
    from torchvision.transforms.v2 import Normalize

    seen = []

    class Recorder(torch.nn.Module):
        def forward(self, image):
            seen.append(image)
            anomaly_map = image.mean(1, keepdim=True)
            return InferenceBatch(anomaly_map=anomaly_map, pred_score=anomaly_map.amax((1, 2, 3)))

    tiny_data.setup()
    plain = torch.stack([tiny_data.train_data[index].image for index in range(4)])
    normalise = Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for make, images in ((LocalDraem, plain), (Padim, normalise(plain))):
        model = protocol.apply(make("hard_cut_paste") if make is LocalDraem else make(pre_trained=False))
        model.model = Recorder()
        model.post_processor.calibrated_on = "forged on held-out images"
        batch = ImageBatch(image=images).update(**model.model(images)._asdict())
        trainer = Trainer(logger=False, enable_checkpointing=False)
        model.post_processor.on_validation_batch_end(trainer, model, batch)
    (normal, forged), (normalised, forged_normalised) = seen[:2], seen[2:]
    assert torch.allclose(normalise(normal), normalised, atol=1e-5)
    assert torch.allclose(normalise(forged), forged_normalised, atol=1e-5)


def test_all_are_judged_alike_but_trivial_ones_keep_their_thresholds():
    models = [Padim(pre_trained=False), LocalDraem("hard_cut_paste"), ConstantMap()]
    for model in models:
        protocol.apply(model)
    names = [[metric.name for metric in model.evaluator.test_metrics] for model in models]
    assert names[0] == names[1] == names[2]
    assert [is_trivial(model) for model in models] == [False, False, True]
    assert models[2].post_processor.image_threshold == pytest.approx(0.5)


def test_average_precision_has_its_usual_name():
    assert as_figures({"pixel_AUPR": 0.5, "pixel_AUPRO": 0.25}) == {"pixel_AP": 0.5, "pixel_AUPRO": 0.25}


def test_network_is_refused_and_given_back():
    before = socket.getaddrinfo
    with no_network():
        for ask in (lambda: socket.getaddrinfo("example.org", 80), lambda: socket.socket().connect(("10.0.0.1", 80))):
            with pytest.raises(OfflineError, match="was asked for, but nothing is downloaded here"):
                ask()
        assert socket.getaddrinfo("localhost", 80)
    assert socket.getaddrinfo is before
