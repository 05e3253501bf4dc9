"""The two models, AnoSeg and SGSF, and the parts that they share."""

# Importing anomalib's models first runs the registration hook while nothing of this package is half imported.
import anomalib.models  # noqa: F401
