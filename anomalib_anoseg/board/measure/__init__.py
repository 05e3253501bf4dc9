"""Measure what the models of a board cost and what their exported forms are worth."""
