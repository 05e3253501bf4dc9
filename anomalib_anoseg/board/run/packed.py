"""Any model with its settings in one text, for grids of different models in anomalib's own benchmark."""

from typing import Any

import yaml
from anomalib.models import get_model
from anomalib.models.components import AnomalibModule
from jsonargparse import Namespace
from omegaconf import DictConfig, OmegaConf

from anomalib_anoseg.board.run.protocol import equip

__all__ = ["parse_settings", "player"]


def player(model: str, settings: str | dict[str, Any] | None = None) -> AnomalibModule:
    """Build a model with its settings in one text, judged as all players on a board are.

    anomalib's benchmark makes a column of its table of each setting and needs the same columns in each row, so that
    models with different settings cannot stand in one grid. Through this function every row has the same two
    settings; `anomalib-anoseg board` takes the text apart again. It also gives the model the metrics and thresholds
    of a board, because rows need the same metrics, too.

    Args:
        model: Name or class path of the model.
        settings: Its arguments as a mapping, or as YAML text of one.

    Returns:
        The model.

    Raises:
        ValueError: If ``settings`` is no mapping.

    Example:
        >>> player("AnoSeg", "{image_size: [64, 64], width: 0.125}").image_size
        (64, 64)
    """  # noqa: DOC502
    return equip(get_model(as_namespace({"class_path": model, "init_args": parse_settings(settings)})))


def as_namespace(model: dict[str, Any]) -> Namespace:
    """Wrap ``class_path`` and ``init_args`` so that ``get_model`` leaves the arguments as they are.

    Of a dictionary it makes OmegaConf's kind of lists, which then stand in checkpoints that torch refuses to load.
    """
    return Namespace(class_path=model["class_path"], init_args=model.get("init_args") or {})


def parse_settings(settings: str | dict[str, Any] | DictConfig | None) -> dict[str, Any]:
    """Read a model's arguments from YAML text.

    Raises:
        ValueError: If it is no YAML, or no mapping.

    Example:
        >>> parse_settings("{width: 0.25}"), parse_settings(None)
        ({'width': 0.25}, {})
    """
    parsed: Any = OmegaConf.to_container(settings) if isinstance(settings, DictConfig) else settings
    try:
        parsed = yaml.safe_load(parsed) if isinstance(parsed, str) else parsed
    except yaml.YAMLError as error:
        raise ValueError(f"settings must be YAML: {' '.join(str(error).split())}") from error
    if parsed is not None and not isinstance(parsed, dict):
        raise ValueError(f"settings must be a mapping of arguments such as 'lr: 0.001', got {settings!r}.")
    return parsed or {}
