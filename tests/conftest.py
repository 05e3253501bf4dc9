"""What several test files need."""

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# torch and anomalib are imported where they are used: xdist's controller, which runs no test, is ready at once.

# Model hubs must not be asked for anything: everything here works off-line.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# OpenVINO tells its makers of every conversion, unless it runs there; for each message it forks all of this process.
os.environ.setdefault("CI", "true")

# What imports leave stays to the end: nothing searches it for garbage, now or later, which takes a fifth of all time.
gc.disable()

# Operations whose result the host waits for.
SYNCHRONISING = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique"}

# Tests that take a set of images train on it, or export what was trained.
SLOW_FIXTURES = {"tiny_root", "demo_settings", "training_seed"}
# Files and tests that start processes, export or compile.
SLOW = {
    "test_anomalibs_own_benchmark_runs_plain_rows",
    "test_benchmarks",
    "test_browser",
    "test_commands_for_integrators_export_as_printed",
    "test_compiles_into_one_graph",
    "test_detector_export",
    "test_distributed",
    "test_graph",
    "test_normalisation_of_pretrained_encoders_is_exported",
    "test_packaging",
    "test_quantization",
    "test_registration",
    "test_the_demonstration_trains",
    "test_trains_anomalibs_draem",
}


def pytest_configure(config):
    """End a run of which xdist loses a process: a new one would get the same test first, and the run never end."""
    if getattr(config.option, "maxworkerrestart", "") is None:
        config.option.maxworkerrestart = "0"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Mark tests by what they take: `learns` if a training's seed decides, `slow` if they last, `script`."""
    for item in items:
        fixtures, names = set(getattr(item, "fixturenames", ())), {item.path.stem, item.name.split("[")[0]}
        if "training_seed" in fixtures:
            item.add_marker("learns")
        if {"run"} <= fixtures and item.path.stem == "test_benchmarks":
            item.add_marker("script")
        if fixtures & SLOW_FIXTURES or names & SLOW:
            item.add_marker("slow")
    if hasattr(config, "workerinput"):
        # Small files come last, and fill what is left of the time of each process.
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """Prepare the process that runs the tests."""
    import torch

    # Small tensors on few cores: threads would only wait for each other. `check_margins.py` tries others.
    torch.set_num_threads(int(os.environ.get("ANOSEG_TEST_THREADS", "1")))
    if "ONEDNN_MAX_CPU_ISA" in os.environ:
        # torch reads the limit once. OpenVINO has an oneDNN of its own, which crashes where OpenVINO expects more.
        torch.conv2d(torch.ones(1, 8, 8, 8), torch.ones(8, 8, 3, 3))
        del os.environ["ONEDNN_MAX_CPU_ISA"]
    keep_openvino()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)
    gc.enable()


def keep_openvino():
    """Keep what loads OpenVINO: dropped in another order, its stack for signals goes, and the next one kills pytest."""
    import openvino

    kept, load = [], openvino.Core.__init__

    def load_and_keep(self, *args, **kwargs):
        load(self, *args, **kwargs)
        kept.append(self)

    openvino.Core.__init__ = load_and_keep


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Run two processes more than there are cores: tests wait for the processes that they start."""
    return (os.cpu_count() or 1) + 2


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep each file on one process: what a file trains or exports once would be made in each that gets a part."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


@pytest.fixture
def count_operations():
    """A context that counts the operations dispatched, and those that make the host wait for the device."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class OperationCounter(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.operations = self.synchronisations = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            del types
            self.operations += 1
            self.synchronisations += func.overloadpacket.__name__ in SYNCHRONISING
            return func(*args, **(kwargs or {}))

    return OperationCounter


@pytest.fixture(scope="session")
def fork(tmp_path_factory):
    """A function that runs Python as a process of its own, which need not wait for torch and the like to be imported.

    Elsewhere than on POSIX it starts one that has to. What depends on how an interpreter starts needs a real one, too.
    """
    start = None
    if hasattr(os, "fork"):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["anomalib_anoseg.models", "anomalib.data", "lightning.pytorch.cli"])
        start = context.Process

    def run(*command, cwd, path=(), timeout=300, **environment):
        command = [str(part) for part in command]
        if start is None:
            environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))} | environment
            command = [sys.executable, *command]
            options = {"capture_output": True, "text": True, "encoding": "utf-8", "timeout": timeout}
            return subprocess.run(command, cwd=cwd, env=environment, check=False, **options)
        outputs = [str(tmp_path_factory.mktemp("fork") / name) for name in ("stdout", "stderr")]
        job = {"command": command, "cwd": str(cwd), "path": [*map(str, path)], "environment": environment}
        script = Path(__file__).with_name("in_fork.py")
        names = {"job": job | {"outputs": outputs}}
        process = start(target=runpy.run_path, args=(str(script), names, "__main__"))
        process.start()
        process.join(timeout)
        process.kill()
        process.join()
        printed = [Path(file).read_text(encoding="utf-8") for file in outputs]
        return subprocess.CompletedProcess(command, process.exitcode, *printed)

    return run


@pytest.fixture(scope="session")
def training_seed() -> int:
    """The seed of trainings of which a test asserts what they learned; `check_margins.py` tries others."""
    return int(os.environ.get("ANOSEG_TEST_SEED", "0"))


@pytest.fixture(scope="session", autouse=True)
def short_calibration():
    """Let the calibration at the end of a training forge a dozen anomalies on tiny images, not two hundred."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anomalib_anoseg.training.calibration.MAX_CALIBRATION_PIXELS", 2 * 12 * 64 * 64)
        yield


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory) -> Path:
    """A set in MVTec AD's layout: 64x64 pixels of stripes; anomalous images have a bright square."""
    root, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    stripes = np.sin(np.arange(64) / 2)[:, None, None] * 40 + 110
    for folder, count in {"train/good": 8, "test/good": 3, "test/square": 3}.items():
        for index in range(count):
            image = stripes + rng.normal(0, 4, (64, 64, 3))
            mask = np.zeros((64, 64), np.uint8)
            if folder == "test/square":
                row, column = rng.integers(4, 40, 2)
                image[row : row + 16, column : column + 16] += 90
                mask[row : row + 16, column : column + 16] = 255
                save_image(mask, root / "stripes" / "ground_truth" / "square" / f"{index:03}_mask.png")
            save_image(image.clip(0, 255).astype(np.uint8), root / "stripes" / folder / f"{index:03}.png")
    return root


def save_image(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture(scope="session")
def demo_settings(tmp_path_factory) -> dict:
    """Arguments of a very small ``DemoTextures``, whose pictures are larger than the models take."""
    return {
        "root": str(tmp_path_factory.mktemp("demo")),
        "image_size": 96,
        "num_train": 12,
        "num_test_good": 3,
        "num_test_per_defect": 1,
        "train_batch_size": 4,
        "eval_batch_size": 4,
        "val_split_ratio": 0.3,
    }


@pytest.fixture(scope="session")
def demo_checkpoint(demo_settings, tmp_path_factory, training_seed) -> Path:
    """A checkpoint of an AnoSeg that was trained on them for a few steps."""
    from anomalib.engine import Engine

    from anomalib_anoseg import AnoSeg
    from anomalib_anoseg.data import DemoTextures

    root = tmp_path_factory.mktemp("trained")
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    engine = Engine(max_epochs=2, accelerator="cpu", devices=1, default_root_dir=root, **quiet)
    model = AnoSeg(
        (64, 64),
        network={"width": 0.125, "score_window": 11},
        optimizer={"averaging": 0.5, "lr": 1e-3},
        seed=training_seed,
        visualizer=False,
    )
    engine.fit(model, datamodule=DemoTextures(**demo_settings))
    engine.trainer.save_checkpoint(root / "model.ckpt", weights_only=True)
    return root / "model.ckpt"


def make_tiny_data(root: str):
    from anomalib.data import MVTecAD

    return MVTecAD(
        root,
        "stripes",
        train_batch_size=3,
        eval_batch_size=3,
        num_workers=0,
        val_split_mode="from_train",
        val_split_ratio=0.25,
        seed=0,
    )


@pytest.fixture
def tiny_data(tiny_root):
    """The tiny set with two of its normal training images held out for validation."""
    return make_tiny_data(tiny_root)


@pytest.fixture(scope="module")
def module_data(tiny_root):
    """The same for fixtures that a whole module shares."""
    return make_tiny_data(tiny_root)
