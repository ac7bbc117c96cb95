"""Patches streamed from a slide or store through captioners and models."""
