"""``anomalib-anoseg doctor``: what is installed, what a model's files hold, and whether all runtimes agree."""

from anomalib_anoseg.cli.doctor.diagnosis import doctor

__all__ = ["doctor"]
