"""The tissue label of a store: read, and compared with the area that its record states.

zarr reads a lost chunk as zeros, which would be glass, and tissue would disappear without any error.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import StoreError, WsikitError
from wsikit.store.paths import reaching, zarr_store

TISSUE, UNREADABLE = 1, 2
"""Values of labels/tissue; 0 is glass."""

_ROUNDING = 1.5e-6
"""Area (mm²) and unreadable fraction are stored with six decimals."""


def read_label(
    folder: Path, stated: object, record: Mapping[str, Any], mpp: tuple[float, float] | None
) -> npt.NDArray[np.uint8]:
    """Values of the label at `folder`, uint8 (h, w), with its checked `record`; `mpp` is level-0 µm/px.

    Raises
    ------
    StoreError
        A file is missing or damaged: the values do not have the recorded area.
    """
    import zarr

    remedy = f"Delete {folder}, and run wsikit tile or wsikit run again."
    level = folder / "0"
    try:
        with reaching(level):
            array = zarr.open_array(zarr_store(level), mode="r", zarr_format=3)
            if array.ndim != 2 or array.dtype != np.uint8 or array.size > 2**32 or not array.size:
                raise StoreError(
                    f"{level}: {array.dtype} {array.shape} found, expected a label, uint8 (h, w). {remedy}"
                )
            values: npt.NDArray[np.uint8] = np.asarray(array[:])
    except WsikitError:
        raise
    except Exception as error:  # zarr and its codecs raise errors of many kinds for damaged files
        words = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(f"{level}: the label cannot be read ({words}). {remedy}") from error
    unreadable = float((values == UNREADABLE).mean())
    if abs(unreadable - float(record["unreadable_fraction"])) > _ROUNDING:
        raise StoreError(
            f"{level}: a file is missing: {unreadable:.3g} of the slide is marked unreadable, expected "
            f"{record['unreadable_fraction']:.3g}. {remedy}"
        )
    if mpp is not None:
        x, y = record["downsample"]
        area = float(np.count_nonzero(values == TISSUE)) * x * mpp[0] * y * mpp[1] / 1e6
        if abs(area - float(record["area_mm2"])) > _ROUNDING + 1e-6 * area:
            raise StoreError(
                f"{level}: a file is missing: {area:.4g} mm² of tissue found, expected {record['area_mm2']:.4g} mm². "
                f"{remedy}"
            )
    return values


def check_coarser(folder: Path, finest: npt.NDArray[np.uint8], n_levels: int) -> None:
    """Compare the coarser levels of the label at `folder` with its `finest` one, uint8 (h, w).

    Raises
    ------
    StoreError
        A level is missing, damaged or differs from the finest one.
    """
    import zarr

    remedy = f"Delete {folder}, and run wsikit tile or wsikit run again."
    for level in range(1, n_levels):
        place = folder / str(level)
        try:
            with reaching(place):
                values = np.asarray(zarr.open_array(zarr_store(place), mode="r", zarr_format=3)[:])
        except WsikitError:
            raise
        except Exception as error:  # as above
            words = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(f"{place}: the label cannot be read ({words}). {remedy}") from error
        if not np.array_equal(values, finest[:: 2**level, :: 2**level]):
            raise StoreError(f"{place}: differs from level 0 of the label. {remedy}")
