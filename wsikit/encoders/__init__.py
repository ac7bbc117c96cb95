"""Encoders of patches: any image model to features, and of texts, where image and text share a space."""
