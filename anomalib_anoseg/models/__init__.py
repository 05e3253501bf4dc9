"""The two models, AnoSeg and SGSF, and the parts that they share."""

# Import anomalib's models first: their registration hook must not meet this package half imported.
import anomalib.models  # noqa: F401
