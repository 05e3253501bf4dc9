"""The two models, AnoSeg and SGSF, and the parts that they share."""
