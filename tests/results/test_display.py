"""Figures of a store for notebooks: what they show, by the artists in them."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from wsikit.errors import RequestError, StoreError
from wsikit.slides.store import SlideStore
from wsikit.tiling.tile import tile

ZIP = Path(__file__).parents[1] / "data" / "store_format2.zip"
GRID = "0.5um_224px"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SlideStore:
    """A synthetic slide of 1,200 × 1,000 px at 0.5 µm/px with captions, predictions and a vote."""
    folder = tmp_path_factory.mktemp("display")
    with zipfile.ZipFile(ZIP) as packed:
        packed.extractall(folder)
    return SlideStore(folder / "format2.zarr")


def words(figure: Figure) -> str:
    found = [text.get_text() for axes in figure.axes for text in [axes.title, axes.xaxis.label, axes.yaxis.label]]
    found += [axes.get_title(loc="left") for axes in figure.axes]
    found += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return " | ".join([*found, figure.get_suptitle(), figure.get_supxlabel()])


def coordinates(store: SlideStore, figure: Figure) -> list[tuple[int, int]]:
    """The corners that the titles of a gallery's patches name."""
    titles = [axes.get_title().rpartition("· ")[2] for axes in figure.axes if axes.get_title()]
    return [tuple(int(part.split()[1]) for part in title.split(", ")) for title in titles]


def test_the_map_is_shown_in_mm_with_its_classes_and_the_notice(store: SlideStore) -> None:
    figure = store.show()
    (axes,) = figure.axes
    assert axes.images[0].get_extent() == pytest.approx([0, 0.6, 0.5, 0])
    assert axes.get_xlabel() == "x, mm"
    said = words(figure)
    assert "No subtype called" in said
    assert "Poorly differentiated (PD): 43.3 %" in said
    assert "DEMONSTRATION ONLY" in said
    assert "Research use only" in said
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_column_is_shown_as_a_heat_map_with_its_unit(store: SlideStore) -> None:
    figure = store.show(grid=GRID, column="caption_facts:nuclei_per_mm2")
    assert len(figure.axes) == 2, "slide and colour bar"
    assert "Nuclei per mm²" in words(figure)
    assert "DEMONSTRATION" not in words(figure), "measured, not predicted"
    assert "DEMONSTRATION" in words(store.show(grid=GRID, column="ood_score"))


def test_without_predictions_the_slide_itself_is_shown(slide_path: Path, tmp_path: Path) -> None:
    plain = tile(slide_path, tmp_path / "plain.zarr")
    figure = plain.show()
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert np.ptp(shown.astype(int), axis=2).max() > 40, "in colour"
    assert not figure.legends


def test_a_gallery_has_patches_spread_over_the_table_with_captions(store: SlideStore) -> None:
    table = store.patches(GRID)
    figure = store.gallery(5, grid=GRID)
    corners = table.coords.tolist()
    rows = [corners.index(list(corner)) for corner in coordinates(store, figure)]
    assert rows == [0, 5, 10, 16, 21]
    image = np.asarray(figure.axes[0].images[0].get_array())
    assert image.shape == (224, 224, 3)
    assert figure.axes[0].get_xlabel().replace("\n", " ")[:30] == table.read("caption")[0][:30]


@pytest.mark.parametrize("lowest", [False, True])
def test_a_gallery_by_a_column_is_sorted_by_its_values(store: SlideStore, lowest: bool) -> None:
    table = store.patches(GRID)
    values = table.read("probability")[:, table.attributes("probability")["names"].index("PD")]
    figure = store.gallery(4, by="probability:PD", grid=GRID, lowest=lowest)
    expected = np.argsort(values if lowest else -values, kind="stable")[:4]
    assert coordinates(store, figure) == [tuple(corner) for corner in table.coords[expected].tolist()]
    assert ("lowest first" if lowest else "highest first") in words(figure)
    assert "DEMONSTRATION ONLY" in words(figure)


def test_more_patches_than_there_are_show_all(store: SlideStore) -> None:
    assert len(coordinates(store, store.gallery(50, grid=GRID))) == 22


def test_requests_that_cannot_be_met_are_refused(store: SlideStore) -> None:
    with pytest.raises(StoreError, match="Name one of them"):
        store.gallery()
    with pytest.raises(StoreError, match="no column"):
        store.gallery(by="no_such_column", grid=GRID)
    with pytest.raises(RequestError, match="column to choose by"):
        store.gallery(lowest=True, grid=GRID)
    with pytest.raises(RequestError, match="1 or more"):
        store.gallery(0, grid=GRID)
