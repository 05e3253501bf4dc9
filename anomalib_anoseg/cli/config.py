"""The subcommand `config`: which presets exist, and where their files are."""

from anomalib_anoseg.common.presets import find_preset, list_presets

__all__ = ["config"]


def config(name: str | None = None) -> None:
    """List the presets, or print the path of one, for ``anomalib train --config "$(anomalib-anoseg config laptop)"``.

    Args:
        name: Name of a preset; if omitted, all are listed.

    Raises:
        ValueError: If there is no preset of this name; the message lists those that exist.

    Example:
        >>> config("laptop")  # doctest: +ELLIPSIS
        /...laptop.yaml
    """  # noqa: DOC502 - what finds the preset raises
    if name is not None:
        print(find_preset(name))  # noqa: T201 - a path that a shell reads, never wrapped
        return
    presets = list_presets()
    width = max(map(len, presets))
    for preset, summary in presets.items():
        print(f"{preset:{width}}  {summary}")  # noqa: T201 - a line each, also in a pipe
