"""Run a command as a new interpreter would, in a fork of a process that has imported what takes seconds.

The fixture `fork` runs this file, with what is to be run in `job`. Other packages stay imported. anomalib and this one
do not: they are imported, and models registered, as in any new process.
"""

import importlib
import os
import runpy
import sys
import warnings


def run(command, path, cwd, environment, outputs):
    for number, file in enumerate(outputs, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(cwd)
    os.environ.update(environment)
    if os.environ.get("PYTHONWARNINGS") == "ignore":
        warnings.simplefilter("ignore")
    sys.modules["torch"].set_num_threads(1)
    for module in [name for name in sys.modules if name.partition(".")[0] in {"anomalib", "anomalib_anoseg"}]:
        del sys.modules[module]
    sys.path[:0] = path
    importlib.invalidate_caches()
    importlib.import_module("anomalib_anoseg._autoload")
    script, *sys.argv[1:] = command
    sys.argv[0] = script
    if script == "-c":
        exec(compile(sys.argv.pop(1), "<string>", "exec"), {"__name__": "__main__"})
    else:
        runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    run(**globals()["job"])
