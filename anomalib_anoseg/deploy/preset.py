"""Which preset a model was configured by: the one whose settings of the model are equal, if there is one."""

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from inspect import signature
from typing import Any

from anomalib_anoseg.common.presets import list_presets, read_preset

__all__ = ["name_preset"]

# They change neither the networks nor what these learn from: chance, length, thresholds, the user's region, speed.
NOT_COMPARED = {
    *("seed", "max_epochs", "ignore_mask", "count_ignored", "calibration.false_alarm_rate"),
    *("network.channels_last", "network.compile", "bank.limit"),
}
# Whether there are any is compared, and not where they lie.
WEIGHTS = {"encoder.pre_trained", "extractor.weights", "detector.segmentation_checkpoint"}


def name_preset(kind: type, settings: Mapping[str, Any]) -> str | None:
    """Name the preset that a model's settings are those of; ``None`` if there is none.

    Data, trainer and components such as a pre-processor are not compared. Of presets with equal settings of the model,
    one without data of its own is named.

    Args:
        kind: Class of the model, whose signature gives the defaults.
        settings: Of the model, groups as mappings.

    Example:
        >>> from anomalib_anoseg import AnoSeg
        >>> name_preset(AnoSeg, {"image_size": [256, 256], "seed": 1}), name_preset(AnoSeg, {"optimizer": {"lr": 1}})
        ('published', None)
    """
    own = _flatten(kind, settings)
    presets = {name: read_preset(name) for name in list_presets()}
    equal = [
        name
        for name, preset in presets.items()
        if isinstance(model := preset.get("model"), Mapping)
        and model["class_path"].rpartition(".")[2] == kind.__name__
        and _flatten(kind, model.get("init_args") or {}) == own
    ]
    return min(equal, key=lambda name: "data" in presets[name], default=None)


def _flatten(kind: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """List all settings that are compared by their place, such as ``patches.area``, with the defaults of the rest."""
    flat: dict[str, Any] = {}
    for name, parameter in signature(kind).parameters.items():
        default = parameter.default
        is_group = is_dataclass(default) and not isinstance(default, type)
        group = asdict(default) | dict(settings.get(name, {})) if is_group else {"": settings.get(name, default)}
        flat |= {f"{name}.{setting}".rstrip("."): value for setting, value in group.items()}
    return {place: _plain(place, value) for place, value in flat.items() if place not in NOT_COMPARED}


def _plain(place: str, value: Any) -> Any:  # noqa: ANN401 - of any setting
    """Bring settings of YAML, of OmegaConf and of Python to the same form."""
    return bool(value) if place in WEIGHTS else list(value) if isinstance(value, tuple) else value
