"""A fluorescence store is exported as an OME-TIFF with the same samples, names and colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

import wsikit
from wsikit.exporters.tiff import write_tiff

NAMES = ["DAPI", "CD3", "Ki67"]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_exported_channels_equal_those_of_the_slide(tmp_path: Path, dtype: str) -> None:
    planes = np.random.default_rng(0).integers(0, 250, (3, 300, 500)).astype(dtype)
    scale = {"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.5, "PhysicalSizeYUnit": "µm"}
    described = {"axes": "CYX", "Channel": {"Name": NAMES}, **scale}
    options = {"tile": (128, 128), "photometric": "minisblack"}
    source, copy = tmp_path / "source.ome.tif", tmp_path / "copy.tif"
    with tifffile.TiffWriter(source, ome=True) as writer:
        writer.write(planes, subifds=1, metadata=described, **options)
        writer.write(planes[:, ::2, ::2], subfiletype=1, **options)
    with wsikit.tile(source, tmp_path / "s.zarr", patch_px=64) as store:
        write_tiff(store, copy)
    with tifffile.TiffFile(copy) as tiff:
        first, second = tiff.series[0].levels
        assert (first.asarray() == planes).all()
        assert (second.asarray() == planes[:, ::2, ::2]).all()
    with wsikit.open_slide(source) as theirs, wsikit.open_slide(copy) as ours:
        assert [channel.name for channel in ours.info.channels] == NAMES
        assert [channel.color for channel in ours.info.channels] == [channel.color for channel in theirs.info.channels]
        assert ours.mpp == theirs.mpp
        assert (ours.read_region(0, 0, 500, 300) == theirs.read_region(0, 0, 500, 300)).all()
