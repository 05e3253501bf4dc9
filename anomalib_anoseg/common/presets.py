"""Presets: the configurations that the package ships, found by name from a clone and from an installed wheel.

A preset is a YAML file of ``configs/``. It, and a board, may name another file in place of a mapping, relative to
itself, as anomalib's command line allows: so every block of settings is written once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["find_preset", "list_presets", "merge", "preset_folder", "read_file", "read_preset"]

PACKAGE = Path(__file__).parents[1]
# Folder of blocks of settings, which are not presets themselves.
BLOCKS = "blocks"


def preset_folder() -> Path:
    """Find the folder of presets: within the installed package, or beside the package in a clone."""
    return next(folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir())


def list_presets() -> dict[str, str]:
    """List the presets by name, with their purpose, which is the first line of their file."""
    folder = preset_folder()
    files = [path for path in sorted(folder.rglob("*.yaml")) if BLOCKS not in path.relative_to(folder).parts]
    files.sort(key=lambda path: len(path.relative_to(folder).parts))
    first_lines = {path: path.read_text("utf-8").split("\n", 1)[0] for path in files}
    return {_name(path, folder): line.removeprefix("#").strip() for path, line in first_lines.items()}


def find_preset(name: str) -> Path:
    """Find the file of a preset.

    Args:
        name: A name from :func:`list_presets`; its last part suffices if it is unique.

    Raises:
        ValueError: If there is none of this name; the message lists those that exist.

    Example:
        >>> find_preset("laptop").name
        'laptop.yaml'
    """
    known = list_presets()
    found = [preset for preset in known if preset == name] or [preset for preset in known if Path(preset).name == name]
    if len(found) != 1:
        raise ValueError(f"There is no preset {name!r}. Take one of {', '.join(known)}.")
    return preset_folder() / f"{found[0]}.yaml"


def read_preset(name: str) -> dict[str, Any]:
    """Read a preset, with the contents of the files that it names.

    Example:
        >>> read_preset("laptop")["model"]["init_args"]["patches"]["count"]
        3
    """
    settings: dict[str, Any] = read_file(find_preset(name))
    return settings


def read_file(path: Path) -> Any:  # noqa: ANN401 - whatever YAML can hold
    """Read a YAML file, with the contents of the files that it names.

    Raises:
        FileNotFoundError: If there is no such file, or it names one that there is not.

    Example:
        >>> read_file(preset_folder() / "blocks" / "patches.yaml")["count"]
        3
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    return _fill_in(yaml.safe_load(path.read_text("utf-8")), path.parent)


def merge(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change some settings; within groups, change only those given.

    Example:
        >>> merge({"patches": {"area": 1, "count": 3}, "seed": 0}, {"patches": {"area": 2}})
        {'patches': {'area': 2, 'count': 3}, 'seed': 0}
    """
    merged = dict(settings)
    for name, value in changes.items():
        own = merged.get(name)
        both = isinstance(own, Mapping) and isinstance(value, Mapping)
        merged[name] = merge(own, value) if both else value  # type: ignore[arg-type]
    return merged


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _fill_in(value: Any, folder: Path) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _fill_in(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill_in(item, folder) for item in value]
    if isinstance(value, str) and value.endswith(".yaml"):
        return read_file(folder / value)
    return value
