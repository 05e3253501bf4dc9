"""Groups of settings: frozen dataclasses that check themselves and may be given as plain mappings.

A model takes a handful of groups in place of fifty arguments. The command line, YAML files and Python name a setting
alike: ``--model.patches.area``, ``patches: {area: ...}``, ``patches={"area": ...}``.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from inspect import signature
from os import PathLike, fspath
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from anomalib.models.components import AnomalibModule
from typing_extensions import Self

from anomalib_anoseg.common.checks import as_type, check_finite, check_interval, check_value
from anomalib_anoseg.training.operating_points import LIMITS


@dataclass(frozen=True)
class Settings:
    """A group of settings, checked when it is made.

    Subclasses are frozen dataclasses; each says in :meth:`check` what its fields may be.

    Attributes:
        group: Name of the group, which is that of the model's argument.
        former_prefix: With which its settings' names began before 0.1.0, when each was an argument of its own.
    """

    group: ClassVar[str]
    former_prefix: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Take lists, as YAML gives them, for tuples, and paths for text; check the types and values of all fields.

        :meth:`check` checks choices. Every number must be finite.
        """
        for name, kind in get_type_hints(type(self)).items():
            if get_origin(kind) is ClassVar:
                continue
            value = _as_plain(getattr(self, name))
            if get_origin(kind) is not Literal:
                value = as_type(f"{self.group}.{name}", value, kind)
            check_finite(f"{self.group}.{name}", value)
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Check the fields.

        Raises:
            ValueError: If one is out of range; the message names it, its value and the range.
        """

    @classmethod
    def read(cls, given: Self | Mapping[str, Any]) -> Self:
        """Take a group as it is, or make it from a plain mapping.

        Raises:
            TypeError: If it is neither, or names a setting that this group does not have.
        """
        if isinstance(given, cls):
            return given
        names = [field.name for field in fields(cls)]
        if not isinstance(given, Mapping):
            raise TypeError(f"{cls.group} must be a mapping of {', '.join(names)}, got {given!r}.")
        if unknown := [name for name in given if name not in names]:
            raise TypeError(f"{cls.group} has no setting {unknown[0]!r}; it has {', '.join(names)}.")
        return cls(**given)

    def within(self, low: float, high: float, *names: str) -> None:
        """Check that fields lie within ``[low, high]``: numbers, ranges, lower bound first, or ``None``."""
        for name in names:
            value = getattr(self, name)
            check = check_interval if isinstance(value, tuple) else check_value
            if value is not None:
                check(f"{self.group}.{name}", value, low, high)

    def one_of(self, name: str, choices: Any) -> None:  # noqa: ANN401 - a Literal has no type of its own
        """Check that a field is one of the values of a ``Literal``."""
        if getattr(self, name) not in get_args(choices):
            raise ValueError(f"{self.group}.{name} must be one of {get_args(choices)}, got {getattr(self, name)!r}.")


@contextmanager
def named_in(group: str) -> Generator[None, None, None]:
    """Put the name of a group before messages that begin with the name of an argument.

    Example:
        >>> with named_in("patches"):
        ...     check_value("count", 0, 1, 100)
        Traceback (most recent call last):
        ValueError: patches.count must lie within [1, 100], got 0.
    """
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{group}.{error}") from None


@dataclass(frozen=True)
class NetworkSettings(Settings):
    """Size of the networks and how they run.

    Args:
        width: Factor on the channels of all networks, in ``[0.05, 4]``; ``1`` is the published size, ``0.25`` suits a
            laptop.
        score_window: Odd side in pixels, 1 or more, of the square over which the anomaly map is averaged before its
            maximum becomes the image score.
        channels_last: Memory layout, faster on most hardware, above all in bfloat16.
        compile: Whether training runs the networks through ``torch.compile``.
    """

    group: ClassVar[str] = "network"

    width: float = 1.0
    score_window: int = 21
    channels_last: bool = True
    compile: bool = False

    def check(self) -> None:
        """Check width and window."""
        self.within(0.05, 4.0, "width")
        if self.score_window < 1 or self.score_window % 2 == 0:
            raise ValueError(
                f"network.score_window must be an odd number of pixels, 1 or more, got {self.score_window}."
            )


@dataclass(frozen=True)
class CalibrationSettings(Settings):
    """How thresholds are set.

    Args:
        false_alarm_rate: Share of good pictures that may be called bad, in ``[0.0001, 0.5]``. Both thresholds are then
            set by good pictures that were held out: no more than this share lies above the image threshold, and no more
            has any marked pixel. A rate needs ``1 / rate - 1`` of them, such as 99 for 0.01. ``null`` sets thresholds
            where F1 is best on defects, forged ones if there are no real ones.
        opacity: Range of the weight over the image below, within ``[0.01, 1]``, of the forged anomalies that set the
            pixel threshold and the range of maps; ``null`` for that of training. A network marks what it learned from
            with more confidence than real defects, so faint ones give a lower threshold, which fits defects better
            [ours].
    """

    group: ClassVar[str] = "calibration"
    former_prefix: ClassVar[str] = "calibration_"

    false_alarm_rate: float | None = None
    opacity: tuple[float, float] | None = None

    def check(self) -> None:
        """Check all fields."""
        self.within(*LIMITS, "false_alarm_rate")
        self.within(0.01, 1.0, "opacity")

    @property
    def changes(self) -> dict[str, tuple[float, float]]:
        """The ranges that differ from those of training."""
        return {} if self.opacity is None else {"opacity": self.opacity}


def check_model(
    image_size: tuple[int, ...],
    min_side: int,
    seed: int | None,
    max_epochs: int | None,
    count_ignored: bool,
    unknown: Mapping[str, Any],
    find_place: Callable[[str], str | None],
) -> None:
    """Check the arguments that stand in no group, and refuse those that a model does not have.

    Args:
        image_size: Height and width in pixels.
        min_side: Shortest side that the networks can take.
        seed: Of the model.
        max_epochs: Of the model.
        count_ignored: Of the model.
        unknown: Further arguments, by name.
        find_place: Tells where a former argument stands now, see :func:`find_place`.

    Raises:
        ValueError: If size, seed or epochs are out of range.
        TypeError: If one is of another type, or there are further arguments; the message says where the first of them
            stands now.
    """
    for name in unknown:
        if place := find_place(name):
            group, _, setting = place.partition(".")
            raise TypeError(
                f"{name} is now {place}: give {group}={{{setting!r}: ...}}, or --model.{place} on the command line."
            )
        raise TypeError(f"There is no setting {name!r}. `anomalib train --model.help AnoSeg` (or SGSF) lists them all.")
    as_type("image_size", _as_plain(image_size), tuple[int, ...])
    as_type("seed", seed, int | None)
    as_type("max_epochs", max_epochs, int | None)
    as_type("count_ignored", count_ignored, bool)
    if len(image_size) != 2 or min(image_size) < min_side:  # noqa: PLR2004
        raise ValueError(
            f"image_size must be (height, width) of {min_side} pixels or more each, got {tuple(image_size)}."
        )
    if seed is not None and seed < 0:
        raise ValueError(f"seed must be a whole number >= 0, or null for none, got {seed}.")
    if max_epochs is not None and max_epochs != -1 and max_epochs < 1:
        raise ValueError(f"max_epochs must be 1 or more, -1 for no end, or null for the trainer's, got {max_epochs}.")


def find_place(name: str, groups: Sequence[type[Settings]], renamed: Mapping[str, str]) -> str | None:
    """Find the setting that an argument of before 0.1.0 became.

    Args:
        name: Of the argument.
        groups: Of the model.
        renamed: Settings with another name than their argument's, as ``group.setting`` by argument.

    Returns:
        ``group.setting``: the renamed one, or the one of the same name, with or without its group's former prefix.
        ``None`` if there is none.
    """
    if name in renamed:
        return renamed[name]
    for prefixes in ([""] * len(groups), [group.former_prefix for group in groups]):
        for group, prefix in zip(groups, prefixes, strict=True):
            for field in fields(group):
                if name == prefix + field.name:
                    return f"{group.group}.{field.name}"
    return None


def changed_settings(model: AnomalibModule) -> list[tuple[str, object]]:
    """List the settings of a model that are not its defaults, those of a group as ``group.setting``."""
    changed = []
    for name, parameter in signature(type(model)).parameters.items():
        value, default = model.hparams.get(name, parameter.default), parameter.default
        pairs = [(name, value, default)]
        if isinstance(default, Settings):
            pairs = [
                (f"{name}.{field.name}", value[field.name], getattr(default, field.name)) for field in fields(default)
            ]
        changed += [(place, own) for place, own, usual in pairs if _as_plain(own) != _as_plain(usual)]
    return changed


def complete(model: type[Any], saved: Mapping[str, Any]) -> dict[str, Any]:
    """Give saved groups the settings that did not exist when they were saved, with their defaults.

    Args:
        model: Class of the model.
        saved: Its arguments, groups as mappings.

    Returns:
        All of ``saved``; a group that it does not have stays out.
    """
    defaults = {name: parameter.default for name, parameter in signature(model).parameters.items()}
    groups = {name: default for name, default in defaults.items() if isinstance(default, Settings)}
    return {
        name: asdict(groups[name]) | dict(value) if name in groups and isinstance(value, Mapping) else value
        for name, value in saved.items()
    }


def _as_plain(value: object) -> object:
    """Take a list, as YAML or OmegaConf gives it, for a tuple, and a path for text, which a checkpoint may hold."""
    if isinstance(value, PathLike):
        return fspath(value)
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str | bytes) else value


def as_plain(*groups: Settings) -> dict[str, dict[str, Any]]:
    """Write groups as mappings by name, which load from a checkpoint without this package.

    Example:
        >>> as_plain(NetworkSettings(width=0.25))["network"]["width"]
        0.25
    """
    return {group.group: asdict(group) for group in groups}
