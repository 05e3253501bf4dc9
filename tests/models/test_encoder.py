"""The encoder of both models: which parts of a batch it sees at once."""

import pytest
import torch

from anomalib_anoseg.models import encoder as module
from anomalib_anoseg.models.encoder import CoordinateEncoder


@pytest.mark.parametrize(("frozen", "sizes"), [(True, [2, 2, 1]), (False, [5])])
def test_takes_a_batch_in_parts_where_no_statistics_are_of_all_of_it(frozen, sizes, monkeypatch):
    encoder, images = CoordinateEncoder("test_efficientnet", frozen=frozen).eval(), torch.rand(5, 5, 40, 64)
    whole = encoder(images)
    monkeypatch.setattr(module, "MAX_PIXELS", 2 * 64 * 64 + 1)  # of padded images
    seen = []
    encoder.network.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    torch.testing.assert_close(encoder(images), whole, rtol=1e-5, atol=1e-5)
    assert seen == sizes
