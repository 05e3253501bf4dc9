"""Inspect pictures by an exported file at the line: numpy, Pillow, filelock and a runtime, without torch."""
