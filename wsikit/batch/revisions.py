"""The revisions of all stages that a run carries out. One is raised when its stage gives other results for equal input.

They are written here as numbers, so that nothing heavy is imported to learn them; a test compares them with the stages'
own.
"""

from __future__ import annotations

REVISIONS = {
    "image": 3,
    "tissue": 1,
    "patches": 1,
    "quality": 1,
    "caption": 1,
    "predict": 1,
    "vote": 2,
    "outputs": 3,
}
