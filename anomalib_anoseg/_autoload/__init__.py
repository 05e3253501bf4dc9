"""Import hook that registers installed models as soon as ``anomalib.models`` has been imported.

anomalib resolves ``--model AnoSeg`` and ``get_model("AnoSeg")`` among the classes that exist at that moment, and offers
no way to declare more. ``anomalib_anoseg.pth`` therefore imports this module at every start of the interpreter. The
module then only puts a finder first in :data:`sys.meta_path`. The finder waits for ``anomalib.models``, which a process
without anomalib never imports. Set ``ANOMALIB_ANOSEG_AUTOLOAD=0`` to start without it.

Only ``os`` and ``sys``, which the interpreter has loaded anyway, are imported here, and annotations are strings: even
``typing`` would cost more than everything in this file (``benchmarks/performance/startup.py`` measures it).
"""

import os
import sys

TYPE_CHECKING = False  # known to type checkers under this name; importing it from typing takes milliseconds
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType


class _Finder:
    """Finds ``anomalib.models`` with the other finders and wraps the loader that they name."""

    def find_spec(
        self, fullname: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if fullname != "anomalib.models":
            return None
        for finder in tuple(sys.meta_path):
            if finder is self or not hasattr(finder, "find_spec"):  # importlib skips such finders, too
                continue
            spec: ModuleSpec | None = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None and hasattr(spec.loader, "exec_module"):
                    spec.loader = _Loader(spec.loader, self)  # type: ignore[assignment]
                return spec
        return None


class _Loader:
    """Runs the host's loader, then registers the models; everything else comes from the host's loader."""

    def __init__(self, loader: "Loader", finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)

    def exec_module(self, module: "ModuleType") -> None:
        # The module keeps no trace of the hook: importlib.resources, inspect and reload see the host's own loader.
        module.__loader__ = module.__spec__.loader = self._loader  # type: ignore[union-attr]
        self._loader.exec_module(module)
        # Reached only if the import succeeded: after a failed one the finder stays and waits for the next attempt.
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        _register()


def _register() -> None:
    """Register the models and warn of moved settings.

    A failure is logged, never raised, because the user asked for ``anomalib.models`` only.
    """
    try:
        from anomalib_anoseg._autoload.moved_settings import warn_of_moved_settings  # noqa: PLC0415
        from anomalib_anoseg._autoload.registration import register  # noqa: PLC0415

        register()
        warn_of_moved_settings(sys.argv[1:])
    except Exception as error:  # noqa: BLE001
        import logging  # noqa: PLC0415

        logging.getLogger(__name__).warning(
            "anomalib-anoseg: registered no models: %s: %s; anomalib's own models are not affected "
            "(reinstall anomalib-anoseg, or set ANOMALIB_ANOSEG_AUTOLOAD=0)",
            type(error).__name__,
            " ".join(str(error).split()),
        )


def install() -> None:
    """Put the finder in front of all others, unless it is there, has done its work, or is switched off."""
    waiting = any(isinstance(finder, _Finder) for finder in sys.meta_path)
    if not (waiting or "anomalib.models" in sys.modules or os.environ.get("ANOMALIB_ANOSEG_AUTOLOAD") == "0"):
        sys.meta_path.insert(0, _Finder())


install()
