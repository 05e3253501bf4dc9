"""Training on two processes: weights stay equal, anomalies differ."""

import json
import subprocess
import sys

SCRIPT = """
import json, sys
import torch
from anomalib.data import MVTecAD
from anomalib.engine import Engine
from anomalib_anoseg import AnoSeg
from lightning.pytorch import Callback

torch.set_num_threads(1)
root, out = sys.argv[1:]


class Recorder(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        pl_module.seen.append([path for path in batch.image_path])

    def on_train_end(self, trainer, pl_module):
        weights = [p.double().sum().item() for p in pl_module.model.parameters()]
        report = {"weights": weights, "masks": pl_module.masks, "seen": pl_module.seen, "steps": trainer.global_step}
        with open(f"{out}/{trainer.global_rank}.json", "w") as file:
            json.dump(report, file)


class Recorded(AnoSeg):
    seen, masks = [], []

    def _forge_views(self, image):
        views, mask = super()._forge_views(image)
        self.masks.append(mask.sum((1, 2, 3)).tolist())
        return views, mask


model = Recorded(image_size=(64, 64), width=0.125, accumulate_grad_batches=2, visualizer=False, evaluator=False)
data = MVTecAD(root, "stripes", train_batch_size=2, eval_batch_size=2, num_workers=0,
               val_split_mode="from_train", val_split_ratio=0.25, seed=0)
Engine(accelerator="cpu", devices=2, strategy="ddp_fork_find_unused_parameters_true", max_epochs=2, logger=False,
       enable_progress_bar=False, enable_model_summary=False, default_root_dir=out,
       callbacks=[Recorder()]).fit(model, datamodule=data)
"""


def test_two_processes(tiny_root, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    run = subprocess.run(
        [sys.executable, script, tiny_root, tmp_path], capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["weights"] == second["weights"]
    assert first["masks"] != second["masks"]
    # Two epochs of two batches a rank, one step of each of the two optimisers for two batches.
    assert first["steps"] == second["steps"] == 4
    for epoch in (0, 1):
        images = [path for report in (first, second) for batch in report["seen"][2 * epoch :][:2] for path in batch]
        assert len(set(images)) == 6, "each image goes to one rank"
