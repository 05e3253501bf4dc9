"""Saliency maps show where the object of an image is, so that synthetic anomalies are placed on it.

SGSF takes them from a network, CPD (Wu et al. 2019), whose weights cannot be shipped. Maps made by it, or by any other
tool, are read from a folder (:class:`SaliencyFolder`); classical estimators need no maps.
"""

from anomalib_anoseg.transforms.saliency.base import EMPTY, NoSaliency, Saliency, resize_saliency
from anomalib_anoseg.transforms.saliency.estimators import ESTIMATORS, BorderContrast, SpectralResidual
from anomalib_anoseg.transforms.saliency.folder import SaliencyFolder, create_saliency
from anomalib_anoseg.transforms.saliency.salient_anomaly import SalientAnomaly, move_to_salient

__all__ = [
    "EMPTY",
    "ESTIMATORS",
    "BorderContrast",
    "NoSaliency",
    "Saliency",
    "SaliencyFolder",
    "SalientAnomaly",
    "SpectralResidual",
    "create_saliency",
    "move_to_salient",
    "resize_saliency",
]
