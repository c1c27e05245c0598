"""Scores: error rates, their intervals, and whether two systems differ. Each file is imported by its name."""
