"""How much size references take in a file, and what is said when it is too much."""

import warnings
from dataclasses import replace

import pytest
import torch
from anomalib.engine import Engine
from torch.nn import functional as F

from anomalib_anoseg import SGSF
from anomalib_anoseg.models.sgsf.bank import ReferenceBank
from anomalib_anoseg.models.sgsf.bank_size import BankSize
from anomalib_anoseg.models.sgsf.networks import AutoEncoder, GuidedUNet


@pytest.mark.parametrize("passes", ["fused", "concatenated"])
@pytest.mark.parametrize("precision", ["float16", "float32"])
@pytest.mark.parametrize("size", [(64, 64), (33, 70)])
def test_room_is_what_the_references_take(pictures, passes, precision, size):
    bank = ReferenceBank(precision)
    bank.fill(pictures(3, size), F.normalize(torch.randn(3, 16), dim=1))
    _, features = AutoEncoder(0.25)(bank.pictures(None))
    bank.store(GuidedUNet(0.25, passes=passes).prepare(features))
    sizes = {
        "stored": sum(tensor.nbytes for tensor in bank.stored(None)) + bank.embeddings.nbytes,
        "computed": bank.images.nbytes + bank.embeddings.nbytes,
    }
    for kind, taken in sizes.items():
        assert BankSize(3, size, 0.25, kind, precision, passes, embedding_size=16).megabytes == pytest.approx(
            taken / 1e6
        )


def test_a_single_reference_needs_no_embedding():
    assert BankSize(1, (64, 64), features="computed").megabytes == pytest.approx(3 * 64 * 64 / 1e6)


def test_room_of_a_model_is_that_of_its_own_settings(make_model):
    settings = {"passes": "concatenated", "bank_precision": "float32"}
    size = make_model(**settings).bank_size
    assert size == BankSize(5, (64, 96), 0.125, "stored", "float32", "concatenated", 512)
    assert make_model(denoise=True).bank_size is None


@pytest.mark.parametrize(
    ("size", "remedies"),
    [
        (
            BankSize(16, (256, 256), precision="float32"),
            ["computed (3.2 MB", "float16 (252 MB)", "single (31 MB", "bank.size=3", "bank.limit=504"],
        ),
        (BankSize(1, (1024, 1024)), ["computed (3.1 MB", "bank.limit=252"]),
        (BankSize(900, (256, 256), features="computed"), ["single (0.2 MB", "bank.size=503", "bank.limit=179"]),
    ],
    ids=["stored", "one", "many"],
)
def test_excess_names_the_settings_that_take_less(size, remedies):
    assert size.explain(size.megabytes) is None
    told = size.explain(100)
    assert told.startswith(f"{size.count} references take {size.megabytes:.0f} MB of each exported file")
    assert all(remedy in told for remedy in remedies)
    assert told.count(" or ") + 1 == len(remedies)
    assert "SGSF.load_from_checkpoint(FILE, guidance={'kind': 'single'})" in told


def test_model_warns_before_training_and_at_export(tiny_data, tmp_path):
    settings = {"image_size": (32, 32), "network": {"width": 0.125}, "extractor": {"name": "test_resnet"}}
    model = SGSF(**settings, visualizer=False, evaluator=False, bank={"limit": 0.1})
    quiet = dict.fromkeys(("enable_progress_bar", "enable_model_summary", "logger"), False)
    engine = Engine(accelerator="cpu", default_root_dir=tmp_path, max_epochs=1, limit_train_batches=1, **quiet)
    with pytest.warns(UserWarning, match=r"6 references take 0\.19 MB .* Choose bank.features=computed"):
        engine.fit(model, datamodule=tiny_data)
    with pytest.warns(UserWarning, match="6 references take"):
        model.to_torch(tmp_path)
    model.bank_settings = replace(model.bank_settings, limit=1.0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.to_torch(tmp_path)
    assert not [entry for entry in caught if "references take" in str(entry.message)]
