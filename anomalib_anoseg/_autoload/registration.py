"""Makes the models and datamodules of installed packages known to anomalib under their names.

anomalib 2.7 finds a model in three ways: ``--model AnoSeg`` and ``get_model("AnoSeg")`` look through the direct
subclasses of ``AnomalibModule``, ``class_path: AnoSeg`` reads an attribute of ``anomalib.models``, and
``class_path: anomalib_anoseg.AnoSeg`` needs the module in the set ``anomalib.models.ALLOWED_MODULES``. Registration
serves all three. Which models there are is declared by packages, ours and others alike, in their ``pyproject.toml``::

    [project.entry-points."anomalib.models"]
    AnoSeg = "anomalib_anoseg.models.anoseg.lightning_model:AnoSeg"

    [project.entry-points."anomalib.data"]
    DemoTextures = "anomalib_anoseg.data.demo_textures:DemoTextures"

Its benchmark takes datamodules from the names of ``anomalib.data`` alone, which is why there is the second group.

A package whose model module may be imported before anomalib should import ``anomalib.models`` first in its own
``__init__.py``; otherwise registration meets that module while it is half imported.

What goes wrong with one of them is logged as a one-line warning, which Python shows on stderr unless the application
has configured logging otherwise. It never raises and never stops another one.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from importlib import metadata
from itertools import accumulate
from typing import TYPE_CHECKING

import anomalib
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from importlib.metadata import EntryPoint
    from types import ModuleType

GROUP = "anomalib.models"
DATA_GROUP = "anomalib.data"
# Models of ours that get_model shall find by their path alone, which keeps them out of everybody's list of models.
BY_PATH = "anomalib_anoseg.board.baselines"

logger = logging.getLogger(__name__)


class RegistrationError(Exception):
    """A model that must not be registered; the message says why and what to do about it."""


def register() -> list[str]:
    """Register every model and datamodule declared in the entry-point groups ``anomalib.models`` and ``anomalib.data``.

    :mod:`anomalib_anoseg._autoload` calls this once ``anomalib.models`` has been imported. Call it yourself where
    ``.pth`` files are not read (a frozen application, a folder on ``PYTHONPATH``), or after
    ``importlib.reload(anomalib.models)``. Calling it again changes nothing.

    Returns:
        list[str]: Names of the registered classes. One that a warning is about is not among them.

    Example:
        >>> from anomalib_anoseg import register
        >>> "AnoSeg" in register()
        True
        >>> from anomalib.models import AnoSeg
    """
    import anomalib.models as host  # noqa: PLC0415 - takes seconds

    told: set[tuple[str, str]] = set()
    names = [_register_or_warn(_register_model, host, entry, told) for entry in metadata.entry_points(group=GROUP)]
    with suppress(RegistrationError):  # has been told of each model
        _allow_modules(host, [BY_PATH])
    datamodules = metadata.entry_points(group=DATA_GROUP)
    names += [_register_or_warn(_register_datamodule, host, entry, told) for entry in datamodules]
    return [name for name in names if name]


def _register_or_warn(
    register_one: Callable[[ModuleType, EntryPoint], str],
    host: ModuleType,
    entry_point: EntryPoint,
    told: set[tuple[str, str]],
) -> str | None:
    """Keep whatever goes wrong with one class to that class, and to one line a package for each reason."""
    try:
        return register_one(host, entry_point)
    except RegistrationError as error:
        reason = str(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a model's module may do anything when imported
        reason = (
            f"{type(error).__name__}: {error}; other models are not affected "
            f"(`python -c 'import {entry_point.module}'` shows the traceback)"
        )
    package = entry_point.dist.name if entry_point.dist else entry_point.module
    if (package, reason) in told:
        return None
    told.add((package, reason))
    text = f"anomalib-anoseg: could not register {entry_point.name} of {entry_point.module}: {reason}"
    logger.warning(" ".join(text.split()))  # messages of failed imports often have several lines
    return None


def _register_model(host: ModuleType, entry_point: EntryPoint) -> str:
    """Load one model and register it under the name of its class.

    Raises:
        RegistrationError: If the entry point is no model that ``get_model`` can find.
    """
    _check_version(entry_point)
    # Before loading: get_model(name) takes the last class defined with that name, so loading would already replace it.
    if entry_point.module not in sys.modules:
        _check_name_is_free(host, entry_point.attr)
    model = entry_point.load()
    if not isinstance(model, type) or host.AnomalibModule not in model.__bases__:
        raise RegistrationError(
            f"{model!r} does not derive from AnomalibModule directly, and get_model finds no other classes; "
            "name AnomalibModule among its bases"
        )
    _check_name_is_free(host, model.__name__, model)
    setattr(host, model.__name__, model)
    if model.__name__ not in host.__all__:
        host.__all__.append(model.__name__)
    _allow_modules(host, (entry_point.module, model.__module__))
    return model.__name__


def _register_datamodule(host: ModuleType, entry_point: EntryPoint) -> str:
    """Load one datamodule and register it under the name of its class.

    Raises:
        RegistrationError: If the entry point is no datamodule.
    """
    del host  # of models
    _check_version(entry_point)
    import anomalib.data as data_host  # noqa: PLC0415 - has been imported by anomalib.models

    datamodule = entry_point.load()
    if not isinstance(datamodule, type) or not issubclass(datamodule, data_host.AnomalibDataModule):
        raise RegistrationError(f"{datamodule!r} does not derive from AnomalibDataModule")
    _check_name_is_free(data_host, datamodule.__name__, datamodule)
    setattr(data_host, datamodule.__name__, datamodule)
    return datamodule.__name__


def _check_version(entry_point: EntryPoint) -> None:
    """Refuse a model whose package, by its own metadata, does not support the running anomalib.

    ``pip`` checks this only while it installs; a later ``pip install anomalib==...`` merely prints a conflict. The
    supported range is written once, among the ``dependencies`` in the package's ``pyproject.toml``.

    Raises:
        RegistrationError: If the running anomalib is outside the range.
    """
    package = entry_point.dist
    for requirement in map(Requirement, (package.requires if package else None) or ()):
        if requirement.name.lower() != "anomalib" or requirement.marker is not None:
            continue
        if not requirement.specifier.contains(anomalib.__version__, prereleases=True):
            raise RegistrationError(
                f"its package supports anomalib{requirement.specifier}, but this is anomalib {anomalib.__version__}; "
                f"run `pip install 'anomalib{requirement.specifier}'` or update the package"
            )


def _check_name_is_free(host: ModuleType, name: str, model: type | None = None) -> None:
    """Refuse a name that anomalib, or another package, has given to another class.

    Raises:
        RegistrationError: If the name means another class than ``model``.
    """
    taken = getattr(host, name, model)
    if taken is not model:
        raise RegistrationError(
            f"{host.__name__}.{name} is already {taken!r}, which stays; pass this one by its full path instead of its "
            "name, or uninstall one of the two"
        )


def _allow_modules(host: ModuleType, modules: Iterable[str]) -> None:
    """Let ``get_model`` import from the modules and their parents, which may re-export the class.

    Example:
        >>> from types import SimpleNamespace
        >>> host = SimpleNamespace(ALLOWED_MODULES={"anomalib.models"})
        >>> _allow_modules(host, ["company.models.vision"])
        >>> sorted(host.ALLOWED_MODULES)
        ['anomalib.models', 'company', 'company.models', 'company.models.vision']

    Raises:
        RegistrationError: If anomalib no longer keeps that set.
    """
    if not isinstance(getattr(host, "ALLOWED_MODULES", None), set):
        raise RegistrationError(
            "this version of anomalib has no set anomalib.models.ALLOWED_MODULES, so get_model accepts the name but no "
            "class_path with dots; use the name, and report this to the authors of anomalib-anoseg"
        )
    for module in modules:
        host.ALLOWED_MODULES.update(accumulate(module.split("."), "{}.{}".format))
