"""No number argument takes NaN or infinity; every argument of the classes below is found by its annotation."""

import dataclasses
import inspect
import typing

import numpy as np
import pytest
import torch

from anomalib_anoseg import SGSF, AnoSeg, data, metrics, transforms
from anomalib_anoseg.common.checks import check_finite
from anomalib_anoseg.models import anoseg, sgsf
from anomalib_anoseg.models.settings import Settings
from anomalib_anoseg.training.post_processor import SelfCalibratingPostProcessor
from anomalib_anoseg.transforms import saliency

GROUPS = (*anoseg.settings.GROUPS, *sgsf.settings.GROUPS)
NOISE = {"saliency": "none", "threshold": (0.4, 0.2), "textures": None, "opacity": (0.1, 1.0), "mark": "noise"}
# What an argument needs beside a number that is not one.
REQUIRED = {
    "Outside": {"anomaly": transforms.CutPaste(), "region": torch.zeros(8, 8, dtype=torch.bool)},
    "OneOf": {"kinds": [transforms.CutPaste()], "weights": (1.0,)},
    "SalientAnomaly": {"saliency": "none", "p": 1.0, "keepdim": False},
    "TextureFolder": {"root": "textures"},
    "PerlinAnomaly": NOISE | {"rotation_p": 0.3, "frequencies": (1, 2), "redraws": 0, "p": 1.0, "keepdim": False},
    "AUPRO": {"fields": ("anomaly_map", "gt_mask")},
    "BestIoU": {"fields": ("anomaly_map", "gt_mask")},
}
# Arguments that a class hands on, with ``**kwargs``, and a value for each.
HANDED_ON = {
    "AUPRO": {"fpr_limit": 0.3},
    "BestIoU": {"bins": 8},
    "SelfCalibratingPostProcessor": {"image_sensitivity": 0.5, "pixel_sensitivity": 0.5},
}


def public(module):
    return [found for name in module.__all__ if inspect.isclass(found := getattr(module, name))]


CLASSES = dict.fromkeys((
    *(*GROUPS, AnoSeg, SGSF, SelfCalibratingPostProcessor),
    *(*public(data), *public(metrics), *public(transforms), *public(saliency)),
))


def numbers(cls):
    """Yield the name and a value of each argument of a class that is a number, or holds some."""
    named = inspect.signature(cls).parameters.values()
    try:
        hints = typing.get_type_hints(cls if issubclass(cls, Settings) else cls.__init__)
    except NameError:  # of a base class of kornia's
        hints = {}
    for parameter in named:
        value = REQUIRED.get(cls.__name__, {}).get(parameter.name, parameter.default)
        text = str(hints.get(parameter.name, parameter.annotation))
        if "float" in text or "int" in text:
            yield parameter.name, value
    yield from HANDED_ON.get(cls.__name__, {}).items()


def spoiled(value, bad):
    """List a value with each of its numbers replaced."""
    if not isinstance(value, tuple):
        return [bad, (bad, bad)] if value is None else [bad]
    return [(*value[:place], bad, *value[place + 1 :]) for place in range(len(value))]


CASES = [(cls, name, value) for cls in CLASSES for name, value in numbers(cls)]


def test_a_number_of_numpy_must_be_finite_too():
    with pytest.raises(ValueError, match=r"^gamma must be a finite number, got nan\.$"):
        check_finite("gamma", np.float32("nan"))
    check_finite("seed", 10**400)  # too large for a float
    check_finite("saliency", "nan")


def test_all_settings_are_found():
    found = {(cls, name) for cls, name, _ in CASES}
    kinds = (float, int, tuple)
    for group in GROUPS:
        for field in dataclasses.fields(group):
            if isinstance(field.default, kinds) and not isinstance(field.default, bool):
                assert (group, field.name) in found
    assert {(transforms.CutPaste, "area"), (AnoSeg, "seed"), (data.DemoTextures, "num_train")} <= found
    assert len(found) > 120


@pytest.mark.parametrize(("cls", "name", "value"), CASES, ids=lambda case: getattr(case, "__name__", str(case)))
def test_no_number_may_be_nan_or_infinite(cls, name, value):
    for given in (spoiled_value for bad in ("nan", "inf", "-inf") for spoiled_value in spoiled(value, float(bad))):
        with pytest.raises((ValueError, TypeError), match=rf"{name}\b.* must ") as raised:  # a float is no whole number
            cls(**REQUIRED.get(cls.__name__, {}) | {name: given})
        assert "\n" not in str(raised.value)
