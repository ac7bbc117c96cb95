"""A captioner that another package announces by an entry point works through the unchanged verbs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import wsikit
from wsikit.captions import CaptionerOptions, load_captioner
from wsikit.captions.registry import captioner_for, captioner_identity, check_captioner, name_of
from wsikit.errors import PluginError, RequestError
from wsikit.testing import check_captioner as check_conformance
from wsikit.tiling.tile import tile

HERE = Path(__file__).parent


def announce(folder: Path, points: dict[str, str], *, package: str = "toy") -> Path:
    """A folder with the metadata of an installed package that announces captioners."""
    info = folder / f"{package}-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.1\n")
    lines = [f"{name} = {value}" for name, value in points.items()]
    (info / "entry_points.txt").write_text("[wsikit.captioners]\n" + "\n".join(lines) + "\n")
    return folder


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Installed: a toy, one whose import fails, one that fails when it is made, and two that make something else."""
    (tmp_path / "odd_captioners.py").write_text(
        "def fails(argument, *, device): raise OSError('no such weights')\n"
        "def makes_nothing(argument, *, device): return object()\n"
        "number = 3\n"
    )
    points = {
        "toy": "toy_captioner:make",
        "misnamed": "toy_captioner:make",
        "broken": "a_library_that_is_not_there.captioner:make",
        "failing": "odd_captioners:fails",
        "empty": "odd_captioners:makes_nothing",
        "number": "odd_captioners:number",
        "morphometry": "odd_captioners:fails",
    }
    announce(tmp_path / "site", points)
    for folder in (HERE, tmp_path, tmp_path / "site"):
        monkeypatch.syspath_prepend(str(folder))
    return tmp_path / "site"


@pytest.mark.usefixtures("site")
def test_the_toy_passes_the_conformance_checks() -> None:
    check_conformance(load_captioner("toy"))


@pytest.mark.usefixtures("site")
def test_argument_and_options_reach_the_plugin() -> None:
    assert load_captioner("toy").fingerprint()["word"] == "Tissue"
    assert load_captioner("toy#Stroma").fingerprint()["word"] == "Stroma"
    assert load_captioner("toy", CaptionerOptions(prompt="Matrix")).fingerprint()["word"] == "Matrix"
    with pytest.raises(RequestError, match="'toy' is a plug-in: seed does not apply"):
        load_captioner("toy", CaptionerOptions(seed=1))


@pytest.mark.usefixtures("site")
def test_it_is_known_by_its_name_and_used_with_models_trained_on_it() -> None:
    check_captioner("toy#Stroma")
    assert name_of("toy#Stroma") == "toy"
    assert captioner_for("toy#Stroma") == "toy#Stroma"
    assert captioner_identity("toy#Stroma")["package"] == "toy 0.1"


def test_without_the_package_its_name_is_unknown() -> None:
    with pytest.raises(RequestError, match="unknown captioner 'toy'.*plug-ins: none"):
        load_captioner("toy")
    assert captioner_for("toy") == "morphometry"


@pytest.mark.usefixtures("site")
def test_an_unknown_name_lists_the_plugins() -> None:
    with pytest.raises(RequestError, match="unknown captioner 'oracle'.*'morphometry'.*plug-ins: .*'toy'"):
        load_captioner("oracle")


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("broken", "package toy 0.1.*cannot be imported.*a_library_that_is_not_there"),
        ("failing", "could not make it: OSError: no such weights"),
        ("empty", "returned a object, which is no captioner"),
        ("number", "is a int, expected a callable"),
        ("misnamed", "its name is 'toy', expected 'misnamed'"),
    ],
)
def test_a_plugin_that_does_not_work_is_named_with_the_reason(spec: str, reason: str) -> None:
    with pytest.raises(PluginError, match=reason) as caught:
        load_captioner(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("site")
def test_a_broken_plugin_is_found_before_anything_is_loaded() -> None:
    with pytest.raises(PluginError, match="broken"):
        check_captioner("broken")


@pytest.mark.usefixtures("site")
def test_no_plugin_takes_the_name_of_a_packaged_captioner() -> None:
    assert type(load_captioner("morphometry")).__name__ == "Morphometry"


@pytest.mark.usefixtures("site")
def test_captions_and_facts_are_stored_by_wsikit_caption(slide_path: Path, tmp_path: Path) -> None:
    table = wsikit.caption(tile(slide_path, tmp_path / "s.zarr"), captioner="toy#Stroma")
    texts, facts = table.read("caption"), table.read("caption_facts")
    assert table.attributes("caption_facts")["names"] == ["brightness"]
    assert np.isfinite(facts).all()
    assert [str(text) for text in texts] == [f"Stroma of brightness {value:.2f}." for value in facts[:, 0]]


def test_the_verb_caption_takes_it(site: Path, slide_path: Path, tmp_path: Path) -> None:
    store = tile(slide_path, tmp_path / "s.zarr")
    path = os.pathsep.join(map(str, (site, HERE, Path(wsikit.__file__).parents[1])))
    command = [sys.executable, "-m", "wsikit.cli.main", "caption", str(store.path), "--captioner", "toy"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "described by toy" in " ".join(done.stdout.split())
