"""The command `anomalib-anoseg inspect` where neither torch and anomalib nor other commands' parsers are installed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

HEAVY = (
    "anomalib",
    "jsonargparse",
    "kornia",
    "lightning",
    "omegaconf",
    "pandas",
    "pydantic",
    "rich",
    "scipy",
    "skimage",
    "sklearn",
    "timm",
    "torch",
    "torchmetrics",
    "torchvision",
    "tqdm",
    "typing_extensions",
    "yaml",
)
# None in sys.modules makes an import fail as if nothing were installed.
BLOCK = f"import sys; sys.modules.update(dict.fromkeys({HEAVY}, None))"
CODE = f"{BLOCK}; from anomalib_anoseg.cli.main import main; main()"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A file that takes the brightest channel of the brightest pixel for the score."""
    path, shape = tmp_path_factory.mktemp("model") / "model.onnx", ["batch", 1, "height", "width"]
    nodes = [
        helper.make_node("ReduceMax", ["input", "channels"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["anomaly_map", "all"], ["pred_score"], keepdims=0),
    ]
    axes = {"channels": [1], "all": [1, 2, 3]}
    values = [helper.make_tensor(name, TensorProto.INT64, [len(axis)], axis) for name, axis in axes.items()]
    outputs = [
        helper.make_tensor_value_info("pred_score", TensorProto.FLOAT, ["batch"]),
        helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, shape),
    ]
    taken = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, *shape[2:]])
    graph = helper.make_graph(nodes, "bright", [taken], outputs, values)
    bright = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    bright.ir_version = 9
    onnx.save(bright, path)
    return path


def command(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    return [sys.executable, "-c", CODE, *map(str, arguments)], environment


def run(*arguments):
    line, environment = command(*arguments)
    return subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=120)


def draw(path, brightness):
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (20, 16), (brightness, 0, 0)).save(path)


@pytest.mark.slow
def test_exit_status_says_what_was_found_without_torch(model, tmp_path):
    draw(tmp_path / "parts" / "a.png", 20)
    ask = ("inspect", model, tmp_path / "parts", "--out", tmp_path / "out")
    process = run(*ask, "--overlays", "all", "--masks")
    assert (process.returncode, process.stdout.partition(";")[0]) == (0, "1 normal, 0 anomalous, 0 unreadable")
    assert process.stderr == "model.onnx has no record of operating points: it decides at its own threshold, 0.5.\n"
    draw(tmp_path / "parts" / "b.png", 220)
    assert run(*ask).returncode == 1
    (tmp_path / "parts" / "c.png").write_bytes(b"torn")
    assert run(*ask).returncode == 3
    process = run(*ask, "--rate", "0.01")
    assert process.returncode == 2
    (message,) = process.stderr.splitlines()
    assert message.startswith("anomalib-anoseg inspect: error: --rate needs a file with operating points")


@pytest.mark.slow
def test_ctrl_c_ends_a_watch_with_all_that_was_judged(model, tmp_path):
    pytest.importorskip("watchfiles")
    draw(tmp_path / "parts" / "a.png", 220)
    line, environment = command("inspect", model, tmp_path / "parts", "--out", tmp_path / "out", "--watch")
    process = subprocess.Popen(
        line,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Shells ignore it in the background, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
    try:
        results = tmp_path / "out" / "results.jsonl"
        for name, count in {"b.png": 1, "c.png": 2}.items():
            wait_for(lambda count=count: results.exists() and results.read_text().count("\n") == count)
            draw(tmp_path / "parts" / name, 20)
        wait_for(lambda: results.read_text().count("\n") == 3)
        process.send_signal(signal.SIGINT)
        printed, told = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert printed.startswith("2 normal, 1 anomalous, 0 unreadable; 3 judged now.")
    assert "Interrupted. What is finished is kept; run the same command again to go on." in told
    assert "Traceback" not in told
    names = [Path(json.loads(line)["path"]).name for line in results.read_text().splitlines()]
    assert names == ["a.png", "b.png", "c.png"]
    assert len((tmp_path / "out" / "results.csv").read_text().splitlines()) == 4


def wait_for(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_other_commands_name_what_they_need():
    process = run("doctor")
    assert process.returncode == 2
    assert "Only `anomalib-anoseg inspect` works here, because jsonargparse is not installed" in process.stderr


@pytest.mark.parametrize("rate", ["0", "1", "nan", "often"])
def test_a_rate_is_a_share(rate, capsys):
    from anomalib_anoseg.cli.main import main

    with pytest.raises(SystemExit) as stopped:
        main(["inspect", "m.onnx", "parts", "--out", "out", "--rate", rate])
    assert stopped.value.code == 2
    assert f"argument --rate: must be a number between 0 and 1, such as 0.01, got '{rate}'" in capsys.readouterr().err
