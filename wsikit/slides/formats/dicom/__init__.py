"""DICOM whole-slide images.

`looks` (first bytes) → `header` (one file) → `kinds` (what it is) → `files` (which files are one slide, where their
frames are) → `levels` and `places` (which frame lies where) → `coding` (from bytes to RGB; `streams`, `native` and
`colours` are its parts) → `reader`. `scale` finds the pixel size.
"""
