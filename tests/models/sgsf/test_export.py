"""Exported models predict what the trained one predicts, with the references inside.

One model is trained once for all tests of this file.
"""

import shutil

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.data.utils import read_image
from anomalib.deploy import TorchInferencer
from anomalib.engine import Engine
from anomalib.models import AnomalibModule
from torch.nn import functional as F

from anomalib_anoseg import SGSF
from anomalib_anoseg.deploy import export
from anomalib_anoseg.deploy.metadata import own_entries

FIELDS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
# Of values that anomalib has normalised to [0, 1].
TOLERANCE = 1e-4
SINGLE = {"guidance": {"kind": "single"}}
MODEL = [
    "--model=SGSF",
    "--model.image_size=[32,48]",
    "--model.network.width=0.125",
    "--model.optimizer.averaging=0.5",
    "--model.extractor.name=test_resnet",
    "--trainer.accelerator=cpu",
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("sgsf")


@pytest.fixture(scope="module")
def checkpoint(root, tiny_root, training_seed):
    """A checkpoint of the command line, and no training images left."""
    shutil.copytree(tiny_root, root / "data")
    run(
        "fit",
        root,
        "--data=MVTecAD",
        f"--data.root={root / 'data'}",
        "--data.category=stripes",
        "--data.train_batch_size=3",
        "--data.num_workers=0",
        "--data.val_split_mode=from_train",
        "--data.val_split_ratio=0.25",
        "--data.seed=0",
        "--model.optimizer.lr=3e-3",
        f"--model.seed={training_seed}",
        "--trainer.max_epochs=8",
        "--trainer.check_val_every_n_epoch=8",
        "--trainer.enable_progress_bar=false",
    )
    shutil.rmtree(root / "data" / "stripes" / "train")
    (path,) = root.rglob("model.ckpt")
    return path


def run(verb, root, *arguments):
    return AnomalibCLI([verb, *MODEL, *arguments, f"--default_root_dir={root / verb}"])


@pytest.fixture(scope="module")
def load(checkpoint):
    """Load the model as if trained with these settings of the bank, none of which shapes the networks."""

    def load(**settings):
        model = SGSF.load_from_checkpoint(checkpoint, weights_only=True, map_location="cpu", **settings).eval()
        for level in ("image", "pixel"):
            # So early, scores differ by so little that normalising them would make much of rounding errors.
            getattr(model.post_processor, f"{level}_min").sub_(0.02)
            getattr(model.post_processor, f"{level}_max").add_(0.02)
        return model

    return load


@pytest.fixture(scope="module")
def images(tiny_root):
    """Test images, ``(6, 3, 64, 64)``."""
    return torch.stack([read_image(path, as_tensor=True) for path in sorted(tiny_root.glob("*/test/*/*.png"))])


def assert_equal_predictions(actual, expected):
    for name in ("pred_score", "anomaly_map"):
        values = torch.from_numpy(np.asarray(actual[name])).reshape(getattr(expected, name).shape)
        torch.testing.assert_close(values, getattr(expected, name), rtol=0, atol=TOLERANCE)
    label = torch.from_numpy(np.asarray(actual["pred_label"])).reshape(expected.pred_label.shape)
    clear = (expected.pred_score - 0.5).abs() > TOLERANCE
    assert torch.equal(label[clear], expected.pred_label[clear])


def run_onnx(path, batch):
    session = onnxruntime.InferenceSession(path)
    return dict(zip(FIELDS, session.run(FIELDS, {"input": batch.numpy()}), strict=True))


@torch.no_grad()
def test_onnx_and_openvino_predict_what_the_model_does(load, images, tmp_path):
    model = load()
    path = Engine(accelerator="cpu", default_root_dir=tmp_path).export(model, "onnx", export_root=tmp_path)
    in_openvino = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert model(images).anomaly_map.std() > 10 * TOLERANCE, "constant maps would prove little"
    for batch in (images[:1], images[1:4], F.pad(images, (0, 33, 0, 7), mode="reflect")[2:5]):
        expected = model(batch)
        assert_equal_predictions(run_onnx(path, batch), expected)
        outputs = in_openvino(batch.numpy())
        assert_equal_predictions({name: outputs[name] for name in FIELDS}, expected)
    stored = onnx.load(path)
    assert {entry.domain: entry.version for entry in stored.opset_import} == {"": 18}  # written, not converted
    entries = own_entries({entry.key: entry.value for entry in stored.metadata_props})
    assert float(entries["image_threshold"]) == pytest.approx(model.post_processor.image_threshold.item())


@torch.no_grad()
def test_other_banks_can_be_chosen_after_training(load, images):
    stored, computed, single = (load(**settings).model for settings in ({}, {"bank": {"features": "computed"}}, SINGLE))
    image = images[..., :32, :48]
    torch.testing.assert_close(stored(image).anomaly_map, computed(image).anomaly_map, atol=1e-3, rtol=0)
    assert (len(stored.bank), len(single.bank)) == (6, 1)
    assert single(image).anomaly_map.shape == (6, 1, 32, 48)


def test_file_for_pictures_as_they_are_takes_those_of_the_references(load, tmp_path, monkeypatch):
    sizes = []

    def to_onnx(_model, root, name, size, **_):
        sizes.append(size)
        (root / name).touch()
        return root / name

    monkeypatch.setattr(AnomalibModule, "to_onnx", to_onnx)
    monkeypatch.setattr(export, "write_onnx_metadata", lambda *_: None)
    model = load()
    model.to_onnx(tmp_path)
    model.pre_processor = None
    model.to_onnx(tmp_path)
    assert sizes == [None, (32, 48)]


@torch.no_grad()
def test_torch_file_holds_what_predicts_and_nothing_else(load, images, tmp_path, monkeypatch):
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    model = load()
    path = model.to_torch(tmp_path)
    predictions = TorchInferencer(path, device="cpu").predict(images)
    expected = model(images)
    assert_equal_predictions({name: getattr(predictions, name) for name in FIELDS}, expected)
    exported = torch.load(path, weights_only=False)["model"]
    assert exported.augmenter is exported.references is exported.model.averaged is None
    assert exported.model.network.autoencoder is None
    assert not exported.model.bank.images.numel()
    needed = sum(tensor.numel() * tensor.element_size() for tensor in [*exported.parameters(), *exported.buffers()])
    assert path.stat().st_size < 1.2 * needed
    assert model.augmenter is not None


def test_command_tests_predicts_and_exports_without_the_training_images(checkpoint, root, tiny_root):
    test = ["--data=MVTecAD", f"--data.root={tiny_root}", "--data.category=stripes", "--data.num_workers=0"]
    run("test", root, *test, f"--ckpt_path={checkpoint}")
    assert len(list((root / "test").rglob("images/**/*.png"))) == 6
    run("predict", root, f"--data={tiny_root / 'stripes' / 'test'}", f"--ckpt_path={checkpoint}")
    assert len(list((root / "predict").rglob("images/**/*.png"))) == 6
    run("export", root, "--export_type=torch", f"--ckpt_path={checkpoint}")
    assert (root / "export" / "weights" / "torch" / "model.pt").is_file()
