"""The mosaic of a map's patches lives in `wsikit.mosaic`, as the vote needs it too; exporters find it here."""

from wsikit.mosaic import Mosaic, cut_mosaic

__all__ = ["Mosaic", "cut_mosaic"]
