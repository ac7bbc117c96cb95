"""Hamamatsu NDPI."""
