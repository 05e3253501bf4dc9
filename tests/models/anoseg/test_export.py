"""Exported models predict what the trained one predicts, and carry nothing that only training needs.

One model is trained and exported once for all tests of this file.
"""

import copy
import shutil
from itertools import starmap
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from anomalib.data.utils import read_image
from anomalib.deploy import CompressionType, OpenVINOInferencer, TorchInferencer
from anomalib.engine import Engine
from anomalib.pre_processing import PreProcessor
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn
from torchmetrics.functional import pearson_corrcoef, spearman_corrcoef
from torchvision.transforms.v2 import Resize

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.deploy.metadata import own_entries
from anomalib_anoseg.deploy.quantization import behind_layers

FIELDS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
EXPORTS = [("torch", None), ("onnx", (64, 64)), ("onnx", None), ("openvino", (64, 64)), ("openvino", None)]
DYNAMIC = [(kind, size) for kind, size in EXPORTS if size is None]
# Of values that anomalib has normalised to [0, 1].
TOLERANCE = 1e-4
LEAST_RANGE = 0.02
# Nobody has to wait for good predictions here, but constant ones would prove little: coarse anomalies are learnt fast.
QUICK = {"optimizer": {"averaging": 0.5, "lr": 1e-3}, "network": {"width": 0.125, "score_window": 11}}
COARSE = {"patches": {"jitter": (1.0, 0.2, 1.0, 0.5), "hard_p": 1.0, "area": (0.05, 0.25)}}


def engine(root, epochs=1):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Engine(
        max_epochs=epochs, check_val_every_n_epoch=epochs, accelerator="cpu", default_root_dir=root, devices=1, **quiet
    )


@pytest.fixture(scope="module")
def checkpoint(module_data, tmp_path_factory, training_seed):
    """A trained model and its checkpoint."""
    root = tmp_path_factory.mktemp("results")
    trainer = engine(root, epochs=20)
    model = AnoSeg((64, 64), seed=training_seed, **QUICK, **COARSE)
    trainer.fit(model, datamodule=module_data)
    for level in ("image", "pixel"):
        # So early, scores may differ by so little that normalising them would make much of rounding errors.
        low, high = getattr(model.post_processor, f"{level}_min"), getattr(model.post_processor, f"{level}_max")
        margin = (LEAST_RANGE - (high - low)).clamp(min=0) / 2
        low -= margin
        high += margin
    trainer.trainer.save_checkpoint(root / "model.ckpt")
    return model, root / "model.ckpt"


@pytest.fixture(scope="module")
def trained(checkpoint):
    return checkpoint[0]


@pytest.fixture(scope="module")
def images(tiny_root):
    """The test images, ``(6, 3, 64, 64)``."""
    return torch.stack([read_image(path, as_tensor=True) for path in sorted(tiny_root.glob("*/test/*/*.png"))])


@pytest.fixture(scope="module")
def export(trained, tmp_path_factory):
    """Export through anomalib's engine, once for each kind; OpenVINO's files share the slow conversion to ONNX."""
    paths = {}

    def export(kind, input_size=None, compression=None):
        key = kind, input_size, compression
        if key in paths:
            return paths[key]
        root = tmp_path_factory.mktemp(kind)
        options = {"export_root": root, "input_size": input_size, "compression_type": compression}
        with pytest.MonkeyPatch.context() as patch:
            if kind == "openvino":
                source = export("onnx", input_size)
                patch.setattr(
                    AnoSeg, "to_onnx", lambda *_: Path(shutil.copytree(source.parent, root / "onnx"), "model.onnx")
                )
            paths[key] = engine(root).export(trained, kind, **options)
        return paths[key]

    return export


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Make an exported file a function from images to predictions."""
    monkeypatch.chdir(tmp_path)  # OpenVINOInferencer leaves its cache in the working directory
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")

    def load(path):
        if path.suffix == ".pt":
            return TorchInferencer(path, device="cpu").predict
        if path.suffix == ".onnx":
            session = onnxruntime.InferenceSession(path)
            names = [output.name for output in session.get_outputs()]
            return lambda batch: dict(zip(names, session.run(None, {"input": batch.numpy()}), strict=True))
        # Some processors would otherwise calculate in bfloat16.
        exact = {"INFERENCE_PRECISION_HINT": "f32"}
        return OpenVINOInferencer(path, device="CPU", config=exact).predict

    return load


@torch.no_grad()
def eager(model, batch):
    return copy.deepcopy(model).eval()(batch)


def assert_equal_predictions(actual, expected, tolerance=TOLERANCE):
    """Compare scores and maps, and decisions where these are not as close to the threshold as they may differ."""
    get = actual.get if isinstance(actual, dict) else lambda name: getattr(actual, name)
    score, label, anomaly_map, mask = (
        # The inferencers drop or move the axis of length 1.
        torch.from_numpy(np.asarray(get(name))).reshape(getattr(expected, name).shape)
        for name in FIELDS
    )
    assert torch.allclose(score, expected.pred_score, rtol=0, atol=tolerance)
    assert torch.allclose(anomaly_map, expected.anomaly_map, rtol=0, atol=tolerance)
    assert label.dtype == mask.dtype == torch.bool
    clear = (expected.pred_score - 0.5).abs() > tolerance
    assert torch.equal(label[clear], expected.pred_label[clear])
    clear = (expected.anomaly_map - 0.5).abs() > tolerance
    assert torch.equal(mask[clear], expected.pred_mask[clear])


def bytes_of(module):
    return sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())


def test_predictions_under_test_are_not_constant(trained, images):
    expected = eager(trained, images)
    assert expected.pred_mask.unique().numel() == 2
    assert expected.pred_score.std() > 10 * TOLERANCE
    assert expected.anomaly_map.std() > 100 * TOLERANCE


# --------------------------------------------------------------------------------------------------------- equality


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(("kind", "input_size"), EXPORTS)
def test_predictions_are_equal(export, load, trained, images, kind, input_size, count):
    predict = load(export(kind, input_size))
    for batch in images.split(count):
        assert_equal_predictions(predict(batch), eager(trained, batch))


@pytest.mark.parametrize("size", [(61, 97), (128, 40)])
@pytest.mark.parametrize(("kind", "input_size"), DYNAMIC)
def test_predictions_are_equal_at_other_sizes(export, load, trained, images, kind, input_size, size):
    predict = load(export(kind, input_size))
    images = F.pad(images, (0, 33, 0, 63), mode="reflect").roll(16, 3)[..., : size[0], : size[1]]
    for batch in (images[:1], images[2:5]):
        assert_equal_predictions(predict(batch), eager(trained, batch))


def test_predictions_are_equal_at_the_size_of_the_image(load, trained, images, tmp_path):
    """Without a pre-processor the networks see images as they are, and maps have the images' sizes."""
    native = copy.deepcopy(trained).eval()
    native.pre_processor = None
    path = native.to_onnx(tmp_path)
    in_openvino = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    predict = load(path)
    images = F.pad(images, (0, 33, 0, 63), mode="reflect")
    for batch in (images[:1, :, :61, :97], images[2:5, :, :128, :40], images[:, :, :64, :64]):
        expected = eager(native, batch)
        assert expected.anomaly_map.shape[-2:] == batch.shape[-2:]
        assert_equal_predictions(predict(batch), expected)
        outputs = in_openvino(batch.numpy())
        assert_equal_predictions({name: outputs[name] for name in FIELDS}, expected)


@pytest.mark.parametrize(
    ("compression", "size", "tolerance"), [("fp16", (0.45, 0.6), 0.01), ("int8", (0.2, 0.35), 0.2)]
)
def test_weights_can_be_compressed(export, load, trained, images, compression, size, tolerance):
    whole, path = export("openvino"), export("openvino", compression=compression)
    ratio = path.with_suffix(".bin").stat().st_size / whole.with_suffix(".bin").stat().st_size
    assert size[0] < ratio < size[1]
    assert_equal_predictions(load(path)(images), eager(trained, images), tolerance)


def test_quantization_spares_scores_and_maps(trained, module_data, images, tmp_path, load):
    images = F.interpolate(images, (96, 80))
    path = trained.to_openvino(tmp_path, "int8", (96, 80), CompressionType.INT8_PTQ, module_data)  # images are 64x64
    model = openvino.Core().read_model(path)
    quantized = {
        port.get_node().get_type_name()
        for node in model.get_ops()
        if node.get_type_name() == "FakeQuantize"
        for port in node.output(0).get_target_inputs()
    }
    assert "Convolution" in quantized
    behind = [node for node in model.get_ops() if node.get_friendly_name() in set(behind_layers(model))]
    assert {"Sigmoid", "ReduceMax"} <= {node.get_type_name() for node in behind}
    assert not any(node.get_type_name() == "FakeQuantize" for node in behind)
    predicted, expected = load(path)(images), eager(trained, images)
    # Hardly trained, it tells much by small differences, and these do not depend on the range of the calibration.
    quantized_map = torch.as_tensor(predicted["anomaly_map"])
    assert spearman_corrcoef(quantized_map.flatten(), expected.anomaly_map.flatten()) > 0.7
    # Normal images' scores are so close to each other that their order is chance: pairs count by how far they differ.
    # With some seeds all scores lie within 0.02, which 8 bits do not resolve: then they must be near, and not clipped.
    quantized, scores = torch.as_tensor(predicted["pred_score"]).flatten(), expected.pred_score.flatten()
    assert len(quantized.unique()) == len(quantized)
    if scores.max() - scores.min() > 0.1:
        assert pearson_corrcoef(quantized, scores) > 0.8
    else:
        torch.testing.assert_close(quantized, scores, atol=0.1, rtol=0)


def test_quantization_needs_images(trained, tmp_path):
    with pytest.raises(ValueError, match="calibrated on validation images: give datamodule"):
        trained.to_openvino(tmp_path, compression_type=CompressionType.INT8_PTQ)


# ---------------------------------------------------------------------------------------------------- what is inside


def test_torch_file_has_no_training_parts(export, trained):
    path = export("torch")
    exported = torch.load(path, weights_only=False)["model"]
    prefixes = {key.split(".")[1] for key in exported.state_dict() if key.startswith("model.")}
    assert prefixes == {"segmenter"}
    needed = bytes_of(trained.model.segmenter)
    assert needed < path.stat().st_size < 1.2 * needed < 0.5 * bytes_of(trained.model)


@pytest.mark.parametrize("input_size", [(64, 64), None])
def test_onnx_file_has_no_training_parts(export, trained, input_size):
    model = onnx.load(export("onnx", input_size))
    operators = [node.op_type for node in model.graph.node]
    assert operators.count("ConvTranspose") == 5  # one decoder
    needed = bytes_of(trained.model.segmenter)
    assert 0.9 * needed < sum(np.prod(weights.dims) * 4 for weights in model.graph.initializer) < 1.1 * needed


def test_onnx_file_says_what_goes_in_and_out(export):
    fixed, dynamic = (onnx.load(export("onnx", size), load_external_data=False) for size in ((64, 64), None))
    shapes = [
        [axis.dim_param or axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
        for model in (fixed, dynamic)
    ]
    assert shapes == [["batch_size", 3, 64, 64], ["batch_size", 3, "height", "width"]]
    for model in (fixed, dynamic):
        assert [output.name for output in model.graph.output] == list(FIELDS)
        assert {entry.domain: entry.version for entry in model.opset_import} == {"": 18}  # written, not converted


def test_thresholds_are_those_of_the_checkpoint(checkpoint, export):
    trained, path = checkpoint
    state = torch.load(path, weights_only=True)["state_dict"]
    thresholds = [state[f"post_processor._{level}_threshold"] for level in ("image", "pixel")]
    post_processor = torch.load(export("torch"), weights_only=False)["model"].post_processor
    assert [post_processor.image_threshold, post_processor.pixel_threshold] == thresholds
    assert post_processor.calibrated_on == trained.post_processor.calibrated_on == "forged on held-out images"
    # In the graphs they are folded into other constants, so metadata name them; outputs are compared above.
    for size in ((64, 64), None):
        entries = own_entries({entry.key: entry.value for entry in onnx.load(export("onnx", size)).metadata_props})
        in_file = [float(entries[f"{level}_threshold"]) for level in ("image", "pixel")]
        assert in_file == pytest.approx([threshold.item() for threshold in thresholds], abs=1e-8)


# ---------------------------------------------------------------------------------------------------- what is left


def test_exporting_changes_nothing_and_training_goes_on(checkpoint, export, module_data, tmp_path):
    trained, path = checkpoint
    for kind, size in EXPORTS:
        export(kind, size)
    assert trained.training
    state = torch.load(path, weights_only=True)["state_dict"]
    assert state.keys() == trained.state_dict().keys()
    assert all(torch.equal(trained.state_dict()[key], value) for key, value in state.items())

    again = copy.deepcopy(trained)
    engine(tmp_path).fit(again, datamodule=module_data)
    for part in ("segmenter", "reconstruction_decoder", "discriminator", "averaged"):
        before, after = (list(getattr(model.model, part).parameters()) for model in (trained, again))
        assert not all(starmap(torch.equal, zip(before, after, strict=True))), part


def test_checkpoint_predicts_what_the_trained_model_predicts(checkpoint, module_data, images, tmp_path):
    trained, path = checkpoint
    reloaded = AnoSeg.load_from_checkpoint(path, weights_only=True, map_location="cpu")
    for name in ("calibrated_on", "calibration_seed", "image_threshold", "pixel_threshold"):
        assert getattr(reloaded.post_processor, name) == getattr(trained.post_processor, name), name
    expected, actual = eager(trained, images), eager(reloaded, images)
    assert all(torch.equal(getattr(actual, name), getattr(expected, name)) for name in FIELDS)

    fresh = AnoSeg((64, 64), **QUICK, visualizer=False)
    batches = engine(tmp_path).predict(fresh, datamodule=module_data, ckpt_path=path)
    assert fresh.post_processor.calibrated_on == "forged on held-out images"
    order = [index for batch in batches for index in batch.image_path]
    assert order == sorted(order)
    assert torch.equal(torch.cat([batch.pred_score for batch in batches]), expected.pred_score)
    assert torch.equal(torch.cat([batch.anomaly_map for batch in batches]), expected.anomaly_map.squeeze(1))


def test_refuses_a_shorter_edge_for_any_size(trained, tmp_path):
    """anomalib would trace the size of one picture and resize all others to it."""
    model = copy.deepcopy(trained)
    model.pre_processor = PreProcessor(Resize(64))
    with pytest.raises(ValueError, match="resizes to a shorter edge"):
        model.to_onnx(tmp_path)


@pytest.mark.parametrize("decoder", [{"skip_connections": True}, {"decoder": "light"}])
def test_normalisation_of_pretrained_encoders_is_exported(decoder, tmp_path):
    # The weights themselves are loaded when training starts, and do not matter here.
    model = AnoSeg(
        (64, 64),
        network={"width": 0.125, **decoder},
        encoder={"pre_trained": True},
        post_processor=False,
    ).eval()
    image, encoder = torch.rand(2, 3, 64, 64), model.model.segmenter.encoder
    with torch.no_grad():
        update_bn([encoder.with_coordinates(image)], model.model.averaged.module)  # for maps that are not constant
        model.model.averaged.module.eval()
        expected = model(image).anomaly_map
        encoder.normalize = False
        assert (model(image).anomaly_map - expected).abs().max() > 0.05
        encoder.normalize = True
    session = onnxruntime.InferenceSession(model.to_onnx(tmp_path, input_size=(64, 64)))
    names = [output.name for output in session.get_outputs()]
    exported = dict(zip(names, session.run(None, {"input": image.numpy()}), strict=True))
    np.testing.assert_allclose(exported["anomaly_map"], expected.numpy(), atol=1e-4)
