"""Earlier name of `wsikit.tiling.roi`, kept so that scripts that import it still run."""

from wsikit.tiling.roi import Drawn, Roi, read_regions, read_roi

__all__ = ["Drawn", "Roi", "read_regions", "read_roi"]
