"""Heads on features of an encoder: linear, one hidden layer, nearest neighbours. Fitted in seconds on a CPU."""
