"""Say where a setting stands now that a command names as before 0.1.0.

The host's parser refuses ``--model.patch_area`` before any model is made, and names no other place. A model whose
settings have moved tells where by a static method ``find_place(name)``, which returns ``"patches.area"`` or ``None``.
"""

import logging
import re
from argparse import ArgumentParser
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import yaml

logger = logging.getLogger(__name__)

OPTION = re.compile(r"--model\.(?:init_args\.)?(\w+)(?:=.*)?", re.DOTALL)


def warn_of_moved_settings(arguments: Sequence[str]) -> None:
    """Log a line for each moved setting that a command names, before the host's parser refuses it."""
    import anomalib.models as host  # noqa: PLC0415 - takes seconds

    for line in moved_settings(host, arguments):
        logger.warning("anomalib-anoseg: %s", line)


def moved_settings(host: ModuleType, arguments: Sequence[str]) -> list[str]:
    """Find settings that stand in a group by now, among a command's options and in its configuration files.

    Args:
        host: ``anomalib.models``, with all models registered.
        arguments: Of the command, without its own name.

    Returns:
        One line for each, with its new place.

    Example:
        >>> import anomalib.models
        >>> moved_settings(anomalib.models, ["train", "--model", "AnoSeg", "--model.patch_area=[0.01, 0.1]"])
        ['patch_area is now patches.area: write --model.patches.area, or patches: {area: ...} in a file']
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model", "--model.class_path", nargs="?", const="", default="")
    parser.add_argument("--config", "-c", nargs="?", const="", action="append", default=[])
    known, others = parser.parse_known_args(arguments)
    model, names = known.model, [match[1] for option in others if (match := OPTION.fullmatch(option))]
    for file in known.config:
        in_file, named = _read_model(Path(file))
        model, names = model or in_file, [*named, *names]
    find_place = getattr(getattr(host, model.rpartition(".")[2], None), "find_place", dict[str, str]().get)
    places = {name: find_place(name) for name in names}
    return [f"{name} is now {place}: {_spell(place)}" for name, place in places.items() if place]


def _spell(place: str) -> str:
    group, _, setting = place.partition(".")
    return f"write --model.{place}, or {group}: {{{setting}: ...}} in a file"


def _read_model(file: Path) -> tuple[str, list[str]]:
    """Read which model a configuration file names, and which arguments it gives it; the host tells what is wrong."""
    with suppress(OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        model = yaml.safe_load(file.read_text(encoding="utf-8"))["model"]
        if isinstance(model, str):
            return model, []
        return str(model.get("class_path", "")), [str(name) for name in model.get("init_args") or model]
    return "", []
