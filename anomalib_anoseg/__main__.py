"""``python -m anomalib_anoseg`` is the command ``anomalib-anoseg``."""

from anomalib_anoseg.cli.main import main

if __name__ == "__main__":
    main()
