"""``python -m anomalib_anoseg`` is the command ``anomalib-anoseg``: nothing in the current folder is imported."""

import os
import sys

if __name__ == "__main__":
    # Before any other import, which might find its module there; pathlib is such an import.
    if sys.path[0] == os.getcwd() and not getattr(sys.flags, "safe_path", False):  # noqa: PTH109
        del sys.path[0]
    from anomalib_anoseg.cli.main import main

    main()
