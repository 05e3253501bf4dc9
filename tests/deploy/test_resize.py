"""Exported files see the pixels that the tested model saw, from pictures of any shape on a disk."""

import warnings

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from anomalib.data.utils import read_image
from anomalib.deploy import CompressionType
from anomalib.pre_processing import PreProcessor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import CenterCrop, Compose, Resize

from anomalib_anoseg import AnoSeg
from anomalib_anoseg.deploy.resize import MatrixResize, _resize_rows, triangle_weights, use_matrix_resize

FIELDS = ("pred_score", "pred_label", "anomaly_map", "pred_mask")
# Of values that anomalib has normalised to [0, 1].
TOLERANCE = 1e-4


@pytest.mark.parametrize("shape", [(230, 210), (40, 33), (70, 301), (310, 66), (127, 65), (64, 64)])
@pytest.mark.parametrize("size", [(64, 64), (48, 96), (64,)])
def test_resizes_as_torchvision_does(shape, size):
    image = torch.rand(2, 3, *shape)
    expected = Resize(size, antialias=True)(image)  # which rounds places to float32
    torch.testing.assert_close(MatrixResize(size)(image), expected, atol=5e-5, rtol=0)


def test_weights_are_those_computed_by_hand():
    # Three pixels of two: each old pixel reaches 1.5 to either side of the new one's centre, at 0.75 and 2.25.
    distances = torch.tensor([[0.25, 0.75, 1.75], [1.75, 0.75, 0.25]])
    expected = (1 - distances / 1.5).clamp(min=0)
    weights = triangle_weights(torch.arange(2), torch.arange(3), before=3, after=2)
    torch.testing.assert_close(weights, expected / expected.sum(1, keepdim=True))


@pytest.fixture
def double():
    """Divide whole numbers in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("before", [1, 2, 15, 63, 65, 129, 500, 1031])
@pytest.mark.parametrize("after", [1, 17, 64, 100])
def test_rows_that_are_left_out_have_no_weight(before, after):
    image = torch.rand(before, 3)
    weights = triangle_weights(torch.arange(after), torch.arange(before), before, after)
    torch.testing.assert_close(_resize_rows(image, after), weights @ image, atol=1e-12, rtol=0)


def test_a_large_picture_takes_an_eighth_of_the_products_of_all_weights():
    picture = torch.rand(1, 3, 1024, 768)
    with FlopCounterMode(display=False) as counted:
        MatrixResize((64, 64))(picture)
    assert counted.get_total_flops() < 2 * 3 * 64 * (1024 * 768 + 64 * 768) / 8


def test_a_trace_resizes_other_sizes_too():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes that become constants
        traced = torch.jit.trace(MatrixResize((64, 64)), torch.rand(1, 3, 90, 120))
    image = torch.rand(1, 3, 200, 70)
    torch.testing.assert_close(traced(image), MatrixResize((64, 64))(image), atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [65, 72, 100])
def test_every_pixel_has_a_finite_gradient(side):
    image = torch.rand(1, 3, 500, 130, requires_grad=True)
    MatrixResize((side, side))(image).sum().backward()
    torch.testing.assert_close(image.grad.sum(), torch.tensor(3.0 * side**2))


def test_keeps_an_image_of_its_size():
    image = torch.rand(1, 3, 64, 64)
    assert MatrixResize((64, 64))(image) is image


def test_computes_in_float32_under_autocast():
    image = torch.rand(1, 3, 90, 70)
    expected = MatrixResize((64, 64))(image)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(MatrixResize((64, 64))(image), expected)


def test_replaces_what_antialiases_in_training_alone():
    kept = Resize((64, 64), antialias=False)
    nearest = Resize((64, 64), interpolation=InterpolationMode.NEAREST)
    pre_processor = PreProcessor(Compose([kept, nearest, CenterCrop(60), Resize((32, 48), antialias=True)]))
    for _ in range(2):
        use_matrix_resize(pre_processor)
        first, second, _, last = pre_processor.export_transform.transforms
        assert isinstance(first, Resize)
        assert isinstance(second, Resize)
        assert isinstance(last, MatrixResize)
        assert last.size == (32, 48)
    use_matrix_resize(None)


@pytest.fixture(scope="module")
def model(demo_checkpoint):
    return AnoSeg.load_from_checkpoint(demo_checkpoint, weights_only=True, map_location="cpu").eval()


@pytest.fixture(scope="module")
def tested(model, predict_files):
    return predict_files(model)


def assert_same(outputs, item):
    for name in FIELDS:
        found, expected = np.asarray(outputs[name], dtype=np.float32), np.asarray(getattr(item, name), dtype=np.float32)
        np.testing.assert_allclose(found.reshape(expected.shape), expected, atol=TOLERANCE, err_msg=name)


def test_pictures_tell_one_resize_from_another(model, pictures, tested):
    """The check below would see a file that resizes without antialiasing."""
    raw = read_image(pictures[0], as_tensor=True)[None]
    aliased = model.post_processor(model.model(Resize((64, 64), antialias=False)(raw)))
    assert (aliased.anomaly_map - tested[pictures[0]].anomaly_map).abs().max() > 100 * TOLERANCE


def test_forward_decides_as_the_test_does(model, pictures, tested):
    for path in pictures:
        assert_same(model(read_image(path, as_tensor=True)[None])._asdict(), tested[path])


@pytest.mark.slow
@pytest.mark.parametrize("size", [(96, 96), None])
def test_half_precision_files_decide_alike(size, tmp_path):
    """With a network that normalises right behind the resize; weights in float16, and computing in bfloat16."""
    network = {"width": 0.125, "decoder": "light"}
    model = AnoSeg((64, 64), encoder={"pre_trained": True}, network=network, post_processor=False).eval()
    image = torch.rand(1, 3, 3, 3).repeat_interleave(32, 2).repeat_interleave(32, 3)
    expected = model(image).anomaly_map
    path = model.to_openvino(tmp_path, input_size=size, compression_type=CompressionType.FP16)
    for precision, tolerance in (("f32", 0.01), ("bf16", 0.05)):
        compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": precision})
        np.testing.assert_allclose(compiled(image.numpy())["anomaly_map"], expected.detach(), atol=tolerance)


@pytest.mark.parametrize("number", [0, 1], ids=["larger", "smaller"])
def test_files_of_one_size_decide_as_the_test_does(number, model, pictures, tested, tmp_path):
    """Files for any size are in ``test_parity``."""
    raw = read_image(pictures[number], as_tensor=True)[None].numpy()
    path = model.to_onnx(tmp_path, input_size=raw.shape[-2:])
    session = onnxruntime.InferenceSession(path)
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [output.name for output in session.get_outputs()]
    assert_same(dict(zip(names, session.run(None, {"input": raw}), strict=True)), tested[pictures[number]])
    results = compiled(raw)
    assert_same({name: results[name] for name in names}, tested[pictures[number]])
