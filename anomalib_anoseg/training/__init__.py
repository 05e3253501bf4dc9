"""What training needs whatever the model is: seeds, schedules, calibration, averaging, checks and callbacks."""
