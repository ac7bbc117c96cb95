"""Classes and quantities as OME-Zarr: valid by the validators, right in µm, nothing missing shown as zero."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel
from ome_zarr_models.v05.labels import Labels

from wsikit.errors import StoreError
from wsikit.exporters.ngff_maps import raster, subtype_label
from wsikit.results.export import export
from wsikit.tiling.verify import verify

CHANNELS = ["probability UD", "probability PD", "probability D", "probability other", "gate"]


@pytest.fixture(params=["in the store", "apart"])
def written(request, store, tmp_path):
    """Root of the image with the label, folder of the maps."""
    if request.param == "apart":
        export(store, "ngff-labels", tmp_path / "maps.zarr")
        return tmp_path / "maps.zarr", tmp_path / "maps.zarr"
    export(store, "ngff-labels", store.folder)
    return store.folder, store.folder / "maps"


def attributes(folder):
    return dict(zarr.open_group(folder, mode="r").attrs)


def test_the_validators_take_image_and_label(written):
    root, maps = written
    image = Image.from_zarr(zarr.open_group(maps, mode="r"))
    label = ImageLabel.from_zarr(zarr.open_group(root / "labels" / "subtype", mode="r"))
    Labels.from_zarr(zarr.open_group(root / "labels", mode="r"))
    assert [axis.name for axis in image.attributes.ome.multiscales[0].axes] == ["c", "y", "x"]
    assert label.attributes.ome.image_label.colors[0].rgba == (213, 94, 0, 255)
    nodes = {str(node.zarr).split(" ")[0].rsplit("/", 1)[-1]: node for node in Reader(parse_url(str(root)))()}
    assert nodes["subtype"].metadata["name"] == "subtype"


def test_ngff_zarr_reads_and_validates_it(written):
    ngff_zarr = pytest.importorskip("ngff_zarr")
    scale = ngff_zarr.from_ngff_zarr(str(written[1]), validate=True).images[0].scale
    assert scale == {"c": 1.0, "y": 50.0, "x": 50.0}


def test_each_patch_has_its_class_and_its_values_at_its_place(store, written):
    root, maps = written
    table = store.patches()
    image, label = zarr.open_group(maps, mode="r"), zarr.open_group(root / "labels" / "subtype", mode="r")
    assert [channel["label"] for channel in attributes(maps)["ome"]["omero"]["channels"]] == CHANNELS
    probs, gate = table.read("probability"), table.read("gate")
    for folder, node in ((maps, image), (root / "labels" / "subtype", label)):
        (scale, shift) = _transforms(folder, 0)
        centre = (table.coords[:, ::-1] + 50) * 0.5  # µm, y and x
        # the transformation gives the middle of the pixel, counted from the middle of the slide's first pixel
        row, col = np.rint((centre - 0.25 - shift[-2:]) / scale[-2:]).astype(int).T
        values = node["0"][:]
        if folder == maps:
            np.testing.assert_array_equal(values[:4, row, col].T, probs)
            np.testing.assert_array_equal(values[4, row, col], gate)
            assert np.isnan(values[:, ~_taken(values.shape[1:], row, col)]).all()
        else:
            labels = values[row, col]
            assert labels[0] == 5  # no prediction
            foreground = probs[1:, :3].argmax(axis=1) + 1
            assert np.isin(labels[1:], [1, 2, 3, 4]).all()
            assert (labels[1:] == foreground)[labels[1:] < 4].all()
            assert not values[~_taken(values.shape, row, col)].any()


def _transforms(folder, level):
    found = attributes(folder)["ome"]["multiscales"][0]["datasets"][level]["coordinateTransformations"]
    return np.asarray(found[0]["scale"]), np.asarray(found[1]["translation"])


def _taken(shape, row, col):
    taken = np.zeros(shape, dtype=bool)
    taken[row, col] = True
    return taken


def test_coarser_levels_are_means_of_what_there_is(store, tmp_path, monkeypatch):
    monkeypatch.setattr("wsikit.exporters.ngff_maps.SMALLEST_PX", 4)
    export(store, "ngff-labels", tmp_path / "m.zarr")
    group = zarr.open_group(tmp_path / "m.zarr", mode="r")
    fine, coarse = group["0"][:], group["1"][:]
    for row in range(fine.shape[1] // 2):
        for col in range(fine.shape[2] // 2):
            block = fine[4, 2 * row : 2 * row + 2, 2 * col : 2 * col + 2]
            expected = np.nan if np.isnan(block).all() else np.nanmean(block)
            np.testing.assert_allclose(coarse[4, row, col], expected, rtol=1e-6)
    n_levels = len(attributes(tmp_path / "m.zarr")["ome"]["multiscales"][0]["datasets"])
    assert n_levels == len(list(group.array_keys())) == 3


def test_overlapping_patches_are_drawn_finer_and_no_place_twice(class_map_of):
    class_map = class_map_of(np.array([[0, 1], [-2, 2]]), overlap_px=100, certainty=np.array([[0.9, 0.5], [0, 0.6]]))
    owners, downsample = raster(class_map)
    assert downsample == (31, 31)
    assert owners[3, 3] == 0
    assert owners[5, 5] == 0
    assert (owners == 2).any()
    assert (owners == -1).any()
    assert subtype_label(class_map).values.max() == 3


def test_a_store_with_maps_is_still_whole_and_written_twice_the_same(store):
    export(store, "ngff-labels", store.folder)
    first = zarr.open_group(store.folder / "maps", mode="r")["0"][:]
    export(store, "ngff-labels", store.folder)
    assert np.array_equal(zarr.open_group(store.folder / "maps", mode="r")["0"][:], first, equal_nan=True)
    assert verify(store).ok
    assert "tissue" in attributes(store.folder / "labels")["ome"]["labels"]


def test_what_others_wrote_is_left_alone(store, tmp_path):
    theirs = tmp_path / "theirs.zarr"
    theirs.mkdir()
    (theirs / "zarr.json").write_text("{}")
    with pytest.raises(StoreError, match="did not write"):
        export(store, "ngff-labels", theirs)
    assert (theirs / "zarr.json").read_text() == "{}"


def test_without_predictions_there_is_nothing_to_map(store, tmp_path):
    store.patches().drop("probability")
    for to in ("ngff-labels", "ome-tiff"):
        with pytest.raises(StoreError, match="wsikit predict"):
            export(store, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_level_of_the_maps_is_float32(store, tmp_path, monkeypatch):
    monkeypatch.setattr("wsikit.exporters.ngff_maps.SMALLEST_PX", 4)
    export(store, "ngff-labels", tmp_path / "maps.zarr")
    levels = [array for _, array in zarr.open_group(tmp_path / "maps.zarr", mode="r").arrays()]
    assert len(levels) > 1
    assert {array.dtype for array in levels} == {np.dtype("float32")}
