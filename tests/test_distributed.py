"""Training on two processes: weights stay equal, anomalies differ."""

import json
import subprocess
import sys

import pytest

SCRIPT = """
import gc, json, sys
gc.disable()  # what imports leave is not searched
import timm, torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib_anoseg import SGSF, AnoSeg
from anomalib_anoseg.training import calibration
from lightning.pytorch import Callback
from PIL import ImageFile
gc.freeze()
gc.enable()

torch.set_num_threads(1)
calibration.MAX_CALIBRATION_PIXELS = 64 * 64  # few anomalies to find thresholds on, which are not compared
root, out = sys.argv[1:]
load, decoded = ImageFile.ImageFile.load, []


def load_and_count(image):
    decoded.extend([image.filename] if image.tile else [])
    return load(image)


ImageFile.ImageFile.load = load_and_count


class Recorder(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pl_module.seen.append([path for path in batch.image_path])

    def on_train_end(self, trainer, pl_module):
        weights = [p.double().sum().item() for p in pl_module.model.parameters()]
        report = {"weights": weights, "masks": pl_module.masks, "seen": pl_module.seen, "steps": trainer.global_step}
        report["tables"] = [table.tolist() for table in pl_module.post_processor.operating.tables.values()]
        report["decoded"] = [str(path) for path in decoded if "train" in str(path)]
        name = type(pl_module).__name__ + ("Detector" if len(trainer.optimizers) == 4 else "")
        if isinstance(pl_module, SGSF) and pl_module.model.guidance == "patches":
            name += "Patches"
            report["bank"] = [memory.vectors.double().sum().item() for memory in pl_module.model.memories]
        elif isinstance(pl_module, SGSF):
            report["bank"] = pl_module.model.bank.images.double().mean((1, 2, 3)).tolist()
        with open(f"{out}/{name}-{trainer.global_rank}.json", "w") as file:
            json.dump(report, file)


class RecordedAnoSeg(AnoSeg):
    seen, masks = [], []

    def _forge_views(self, image, paths):
        views, mask = super()._forge_views(image, paths)
        self.masks.append(mask.sum((1, 2, 3)).tolist())
        return views, mask


class RecordedSGSF(SGSF):
    seen, masks = [], []

    def _draw_references(self, paths, image):
        reference = super()._draw_references(paths, image)
        self.masks.append(reference.sum((1, 2, 3)).tolist())
        return reference

    def _find_own(self, paths):
        own = super()._find_own(paths)
        self.masks.append(own.tolist())
        return own


def train(model, strategy, **options):
    data = MVTecAD(root, "stripes", train_batch_size=2, eval_batch_size=2, num_workers=0,
                   val_split_mode="from_train", val_split_ratio=0.25, seed=0)
    Engine(accelerator="cpu", devices=2, strategy=strategy, max_epochs=2, logger=False,
           enable_progress_bar=False, enable_model_summary=False, default_root_dir=out,
           callbacks=[Recorder()], **options).fit(model, datamodule=data)


small = {"image_size": (64, 64), "network": {"width": 0.125}, "visualizer": False, "evaluator": False}
train(RecordedAnoSeg(optimizer={"accumulate_grad_batches": 2}, **small), "ddp_fork_find_unused_parameters_true")
detector = RecordedAnoSeg(detector={"enabled": True, "share": 0.5}, **small)
detector.seen, detector.masks = [], []
train(detector, "ddp_fork_find_unused_parameters_true")
train(RecordedSGSF(extractor={"name": "test_resnet"}, optimizer={"averaging": 0.9}, **small), "ddp_fork")
torch.save(timm.create_model("test_efficientnet").state_dict(), f"{out}/weights.pth")
patches = RecordedSGSF(guidance={"kind": "patches"}, anomalies={"pairs": True}, optimizer={"averaging": 0.9},
                       extractor={"name": "test_efficientnet", "weights": f"{out}/weights.pth"}, **small)
patches.seen, patches.masks = [], []
train(patches, "ddp_fork")
"""


@pytest.fixture(scope="module")
def reports(tiny_root, tmp_path_factory):
    """What both processes saw and learned, by the name of the model."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "train.py").write_text(SCRIPT)
    command = [sys.executable, folder / "train.py", tiny_root, folder]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return {
        model: [json.loads((folder / f"Recorded{model}-{rank}.json").read_text()) for rank in (0, 1)]
        for model in ("AnoSeg", "AnoSegDetector", "SGSF", "SGSFPatches")
    }


@pytest.mark.parametrize(("model", "steps"), [("AnoSeg", 4), ("AnoSegDetector", 8), ("SGSF", 4), ("SGSFPatches", 4)])
def test_two_processes_learn_alike_from_different_images(reports, model, steps):
    first, second = reports[model]
    assert first["weights"] == second["weights"]
    assert first["masks"] != second["masks"]
    # Two epochs of two batches a rank. Of AnoSeg's two optimisers each takes one step for two batches; with a detector
    # two of four, those of the stage that runs, take one for each.
    assert first["steps"] == second["steps"] == steps
    for epoch in (0, 1):
        images = [path for report in (first, second) for batch in report["seen"][2 * epoch :][:2] for path in batch]
        assert len(set(images)) == 6, "each image goes to one rank"


def test_held_out_pictures_of_both_processes_count(reports):
    for first, second in reports.values():
        assert first["tables"] == second["tables"]
        assert {row[3] for table in first["tables"] for row in table} == {2}, "one of each process"


def test_both_processes_have_the_same_references(reports):
    first, second = reports["SGSF"]
    assert first["bank"] == second["bank"]
    assert len(first["bank"]) == 6
    first, second = reports["SGSFPatches"]
    assert first["bank"] == second["bank"]


@pytest.mark.parametrize("model", ["AnoSeg", "SGSF"])
def test_one_process_reads_the_pictures_of_both(reports, model):
    first, second = (report["decoded"] for report in reports[model])
    assert len(first) == len(set(first)) == 8
    assert len(second) <= 2, "the first of each data set, which each process looks at"


def test_the_next_training_reads_nothing(reports):
    assert not reports["AnoSegDetector"][0]["decoded"]
