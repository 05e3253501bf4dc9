"""Time that counts for a budget is that of the training."""

import json
from types import SimpleNamespace

from anomalib_anoseg.training import budget


def test_the_clocks_stand_while_the_progress_is_written(tmp_path, monkeypatch):
    meter = budget.TrainingMeter(tmp_path / "progress.json")
    trainer = SimpleNamespace(train_dataloader=SimpleNamespace(dataset=[1]), max_epochs=3)
    ran, write = [], budget.write_json
    monkeypatch.setattr(
        budget, "write_json", lambda *content: (ran.append(meter.stopwatch.is_running), write(*content))
    )
    meter.on_train_start(trainer, None)
    meter.on_train_epoch_end(trainer, None)
    assert ran == [False, False]
    assert meter.stopwatch.is_running
    assert json.loads(meter.progress.read_text()) == {"epoch": 1, "max_epochs": 3}
