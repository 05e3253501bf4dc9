"""Self-supervised anomaly segmentation for anomalib.

The package's names are imported when they are first used (PEP 562), because the interpreter imports this file at
every start (see :mod:`anomalib_anoseg._autoload`), and ``torch`` and ``anomalib`` take seconds to import.

Example:
    >>> from anomalib_anoseg import AnoSeg
    >>> AnoSeg.__name__
    'AnoSeg'
"""

TYPE_CHECKING = False  # known to type checkers under this name
if TYPE_CHECKING:
    from anomalib_anoseg._autoload.registration import register
    from anomalib_anoseg.models.anoseg import AnoSeg
    from anomalib_anoseg.models.sgsf import SGSF

__all__ = ["SGSF", "AnoSeg", "__version__", "register"]

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "AnoSeg":
        from anomalib_anoseg.models.anoseg import AnoSeg  # noqa: PLC0415

        return AnoSeg
    if name == "SGSF":
        from anomalib_anoseg.models.sgsf import SGSF  # noqa: PLC0415

        return SGSF
    if name == "register":
        from anomalib_anoseg._autoload.registration import register  # noqa: PLC0415

        return register
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
