"""Revisions of all stages of a run. A revision is increased when its stage gives other results for equal input.

The numbers are repeated here so that reading them imports nothing heavy; a test compares them with those of the stages.
"""

from __future__ import annotations

REVISIONS = {
    "image": 4,
    "tissue": 2,
    "patches": 1,
    "quality": 2,
    "caption": 1,
    "morphometry": 3,
    "morphometry-in-slide": 1,
    "features": 1,
    "predict": 1,
    "vote": 2,
    "outputs": 6,
}
