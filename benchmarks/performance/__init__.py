"""What the package costs: time, memory and size."""
