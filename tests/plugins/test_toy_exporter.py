"""An exporter that another package announces by an entry point works through the unchanged verbs."""

from __future__ import annotations

from pathlib import Path

import pytest

import wsikit
from wsikit.cli.main import main
from wsikit.errors import PluginError, RequestError
from wsikit.results.formats import exporter_names, load_exporter
from wsikit.slides.store import SlideStore
from wsikit.testing import check_exporter
from wsikit.testing.exporters import make_stores

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_stores(tmp_path_factory.mktemp("stores"))["predicted"]


@pytest.fixture
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installed: the toys, one whose import fails, one that is no exporter, one that fails midway, one named png."""
    (tmp_path / "odd_exporters.py").write_text(
        "from toy_exporter import Tally\n"
        "class Fails(Tally):\n"
        "    name = 'fails'\n"
        "    def write(self, results, path, **options):\n"
        "        path.write_text('half')\n"
        "        raise OSError('disk full')\n"
        "class Silent(Tally):\n"
        "    name = 'silent'\n"
        "    def write(self, results, path, **options): pass\n"
        "number = 3\n"
    )
    points = {
        "tally": "toy_exporter:Tally",
        "tally-folder": "toy_exporter:Folder",
        "broken": "a_library_that_is_not_there:Exporter",
        "number": "odd_exporters:number",
        "fails": "odd_exporters:Fails",
        "silent": "odd_exporters:Silent",
        "png": "odd_exporters:Fails",
    }
    info = tmp_path / "site" / "toy-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 0.1\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("[wsikit.exporters]\n" + "\n".join(lines) + "\n")
    for folder in (HERE, tmp_path, tmp_path / "site"):
        monkeypatch.syspath_prepend(str(folder))


pytestmark = pytest.mark.usefixtures("_site")


@pytest.mark.parametrize("name", ["tally", "tally-folder"])
def test_the_toys_pass_the_conformance_checks(name: str) -> None:
    check_exporter(name)


def test_a_plug_in_is_written_by_the_function_and_the_command(stored: Path, tmp_path: Path) -> None:
    wsikit.export(stored, "tally", tmp_path / "a.txt", column="gate")
    with pytest.raises(SystemExit) as ended:
        main(["export", str(stored), "--to", "tally", "-o", str(tmp_path / "b.txt")])
    assert not ended.value.code
    lines = (tmp_path / "b.txt").read_text("utf-8").splitlines()
    assert lines[0] == "slide predicted"
    assert len(lines) == 5 + len(SlideStore(stored).patches())
    assert "gate nan" in (tmp_path / "a.txt").read_text("utf-8")


def test_a_folder_keeps_the_files_of_other_slides(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "other.txt").write_text("another slide")
    wsikit.export(stored, "tally-folder", tmp_path / "job")
    assert sorted(path.name for path in tmp_path.joinpath("job").iterdir()) == ["other.txt", "predicted.txt"]


def test_a_plug_in_that_fails_leaves_the_older_file(stored: Path, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("older")
    with pytest.raises(OSError, match="disk full"):
        wsikit.export(stored, "fails", tmp_path / "t.txt")
    assert (tmp_path / "t.txt").read_text() == "older"
    assert not list(tmp_path.glob("*.partial"))


def test_a_plug_in_that_writes_nothing_is_named(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="'silent' wrote nothing"):
        wsikit.export(stored, "silent", tmp_path / "t.txt")


def test_a_broken_plug_in_is_named_with_its_error_and_disturbs_no_other(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="'broken'.*toy 0.1.*a_library_that_is_not_there"):
        wsikit.export(stored, "broken", tmp_path / "t")
    with pytest.raises(PluginError, match="'number'.*it lacks name, folder, write"):
        wsikit.export(stored, "number", tmp_path / "t")
    wsikit.export(stored, "tally", tmp_path / "t")


def test_an_unknown_format_lists_plug_ins_and_an_own_one_is_not_replaced(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such format; choose one of png, .*tally, tally-folder"):
        wsikit.export(stored, "pdf", tmp_path / "t")
    assert exporter_names().count("png") == 1
    assert load_exporter("png").name == "png"
    assert type(load_exporter("png")).__name__ == "Format"


def test_an_option_that_a_plug_in_does_not_take_is_refused(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="--mpp is not for tally"):
        wsikit.export(stored, "tally", tmp_path / "t", mpp=2.0)
    assert not (tmp_path / "t").exists()
