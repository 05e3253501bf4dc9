"""What tests of AnoSeg share."""

import pytest
import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Subset


@pytest.fixture
def train_on_four(tiny_data):
    """Train a model on four images, always with the same anomalies; give images, forged images and masks."""

    def train(model, max_steps):
        tiny_data.setup()
        four = Subset(tiny_data.train_data, range(4))
        image = torch.stack([item.image for item in four])
        forged, mask = model.augmenter.forge(image, generator=torch.Generator().manual_seed(0))
        model.augmenter.forge = lambda image, **_: (forged[: len(image)], mask[: len(image)])
        loader = DataLoader(four, 4, collate_fn=tiny_data.train_data.collate_fn)
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        Trainer(accelerator="cpu", max_steps=max_steps, **quiet).fit(model, loader)
        return image, forged, mask

    return train
