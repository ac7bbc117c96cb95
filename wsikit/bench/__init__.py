"""Benchmark of reading patches from a slide: wsikit, the limit set by decoding, and other readers."""
