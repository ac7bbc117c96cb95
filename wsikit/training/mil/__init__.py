"""Training on slide labels (multiple instance learning)."""
