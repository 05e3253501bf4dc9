"""Processes that import what is installed, and nothing that happens to lie in the current folder."""

from pathlib import Path

__all__ = ["isolated"]


def isolated(module: str) -> str:
    """Write the code for ``python -c`` that calls ``main()`` of a module of this package.

    Python searches the current folder before all others, so that a file ``timm.py`` there would run in timm's place.
    Its own switch against that (``-P``) exists from 3.11 on. ``PYTHONPATH``, editable installs and files ``.pth`` work
    as ever, and the package is found as well if the caller runs from a clone.

    What the imports leave stays to the end of the process, and is not searched for garbage: it starts and ends sooner.

    Args:
        module: Full name of the module.

    Example:
        >>> import subprocess, sys
        >>> code = isolated("anomalib_anoseg.cli.main")
        >>> print(subprocess.check_output([sys.executable, "-c", code, "--version"], text=True).partition(" ")[0])
        anomalib-anoseg
    """
    root = str(Path(__file__).parents[2])
    # The three modules are loaded when this runs, or built in; processes that it starts are spared the folder as well.
    search = f"sys.path[:] = [*filter(None, sys.path), {root!r}]; os.environ['PYTHONSAFEPATH'] = '1'"
    load = f"gc.disable(); from {module} import main; gc.freeze(); gc.enable()"
    return f"import gc, os, sys; {search}; {load}; main()"
