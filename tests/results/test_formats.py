"""Every format of wsikit's own keeps the contract of an exporter; a broken exporter is found by the checks."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wsikit.results.formats import OWN_FORMATS
from wsikit.results.load import StoredResults
from wsikit.testing import check_exporter
from wsikit.testing.exporters import make_stores


@pytest.mark.parametrize("name", OWN_FORMATS)
def test_every_format_passes_the_conformance_checks(name: str) -> None:
    if name == "spatialdata":
        pytest.importorskip("spatialdata")
    if name.startswith("dicom-"):
        pytest.importorskip("highdicom")
    check_exporter(name)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("png", {"column": "ood_score"}),
        ("geojson", {"patches": True, "per": "region"}),
        ("ome-tiff", {"style": "map", "mpp": 4.0}),
        ("trident", {"features": "check"}),
    ],
)
def test_options_keep_the_contract(name: str, options: dict[str, Any]) -> None:
    check_exporter(name, **options)


class Correct:
    """Correct; the others differ in one thing."""

    name = "correct"
    folder = False

    def write(self, results: StoredResults, path: Path, **options: Any) -> None:
        path.write_text(results.slide_id + str(results.table.read("coords").sum()))


class NoPath(Correct):
    def write(self, results: StoredResults, path: Path, **options: Any) -> None:
        path.with_name("elsewhere").write_text("x")


class Random(Correct):
    number = itertools.count()

    def write(self, results: StoredResults, path: Path, **options: Any) -> None:
        path.write_text(str(next(self.number)))


class HalfWritten(Correct):
    in_place = True

    def write(self, results: StoredResults, path: Path, **options: Any) -> None:
        path.write_text("half")
        path.write_text(str(results.table.read("coords")))


class Crashes(Correct):
    def write(self, results: StoredResults, path: Path, **options: Any) -> None:
        path.write_text(results.class_map.classes[0])


class WritesTheStore(Correct):
    def write(self, results: StoredResults, path: Path, **options: Any) -> None:
        super().write(results, path)
        (results.store.folder / "mark").write_text("x")


class Misnamed(Correct):
    name = "png"


class UnknownOption(Correct):
    options = ("colour",)


def test_a_correct_exporter_passes() -> None:
    check_exporter(Correct)


@pytest.mark.parametrize(
    ("exporter", "error", "words"),
    [
        (NoPath, Exception, "wrote nothing"),
        (Random, AssertionError, "different bytes"),
        (HalfWritten, AssertionError, "overwrote"),
        (Crashes, IndexError, "index"),
        (WritesTheStore, AssertionError, "changed the store"),
        (Misnamed, AssertionError, "a format of wsikit has this name"),
        (UnknownOption, AssertionError, "no options \\['colour'\\]"),
    ],
)
def test_a_fault_is_found(exporter: type, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        check_exporter(exporter)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_stores(tmp_path_factory.mktemp("stores"))


def test_results_show_slide_vote_and_patches(stores: dict[str, Path]) -> None:
    from wsikit.slides.store import SlideStore

    results = StoredResults(SlideStore(stores["predicted"]))
    assert results.classes == ("UD", "PD", "D")
    assert results.slide_id in repr(results)
    assert f"{len(results.table)} patches" in repr(results)
    assert "Poorly differentiated (PD)" in results._repr_html_()
    assert sum(results.probability.values()) == pytest.approx(1)
    assert set(results.measurements()) == {
        *(f"probability {c}" for c in (*results.classes, "other")),
        "gate",
        "ood_score",
    }


def test_results_without_predictions_say_why(stores: dict[str, Path]) -> None:
    from wsikit.slides.store import SlideStore

    results = StoredResults(SlideStore(stores["unpredicted"]))
    assert (results.result, results.subtype, results.classes, results.probability) == (None, None, (), {})
    assert "no model was run" in repr(results)
    assert "no model was run" in results._repr_html_()
    older = StoredResults(SlideStore(stores["predicted"]), not_predicted="too coarse")
    assert (older.result, older.reason) == (None, "too coarse")


def test_voting_and_exporting_import_no_torch(stores: dict[str, Path], tmp_path: Path) -> None:
    formats = ("png", "geojson", "ngff-labels", "ome-tiff", "csv", "parquet", "report", "trident")
    code = (
        f"import sys, wsikit\nstore = {str(stores['predicted'])!r}\nwsikit.vote(store)\n"
        f"for to in {formats!r}: wsikit.export(store, to, {str(tmp_path)!r} + '/o.' + to)\n"
        "print(sorted({'torch', 'transformers', 'timm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_killed_export_left_is_removed_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    from wsikit.store.atomic import remove_partials_of

    ending = f"{'0a' * 16}.partial"
    for name in (
        f"map.png.{ending}",
        f"map.png.notes.{ending}",
        f"other.png.{ending}",
        "map.png.mine.partial",
        "map.png",
    ):
        (tmp_path / name).touch()
    (tmp_path / f".map.png.{ending}").mkdir()
    remove_partials_of(tmp_path / "map.png")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"map.png.notes.{ending}", f"other.png.{ending}", "map.png.mine.partial", "map.png"}
