"""Inspect pictures by an exported file at the line: numpy, Pillow, scikit-image and a runtime, without torch."""
