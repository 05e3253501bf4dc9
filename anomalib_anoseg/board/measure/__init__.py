"""Measure the cost of a board's models and the accuracy of their exported forms."""
