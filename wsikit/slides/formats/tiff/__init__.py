"""Tiled TIFF slides: Aperio SVS, OME-TIFF, Philips, generic."""
