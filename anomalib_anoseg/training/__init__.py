"""Training of any model: seeds, schedules, calibration, averaging, checks and callbacks."""
