"""A model that is not part of wsikit works through the unchanged verbs: by its object, its name, or a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import wsikit
from wsikit.cli.main import main
from wsikit.errors import ModelError, PluginError


def brightness() -> object:
    from toy_model import Brightness

    return Brightness.load(None, device="cpu")


@pytest.fixture
def toy(install: Callable[..., Path]) -> Callable[..., Path]:
    install("wsikit.models", brightness="toy_model:Brightness")
    return install


@pytest.mark.usefixtures("toy")
def test_a_plug_in_classifies_votes_and_maps_through_the_run(slide_path: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", str(slide_path), "--model", "brightness", "-o", str(tmp_path / "out")])
    assert ended.value.code == 0
    store = wsikit.SlideStore(tmp_path / "out" / "slides" / "disc.zarr")
    table = store.patches()
    probs = table.read("probability")
    x, y = table.coords[0].tolist()
    grey = store.read_region(x, y, 64, 64, mpp=1.0).mean() / 255
    np.testing.assert_allclose(probs[0], [1 - grey, grey], atol=0.01)
    assert table.attributes("probability")["names"] == ["dark", "bright"]
    result = json.loads((tmp_path / "out" / "results" / "disc" / "result.json").read_text())
    assert set(result["classes"]) == {"dark", "bright"}
    assert (tmp_path / "out" / "results" / "disc" / "map.png").is_file()


def test_an_object_can_be_given_as_the_model(install: Callable[..., Path], slide_path: Path, tmp_path: Path) -> None:
    install("wsikit.models")
    model = brightness()
    result = wsikit.run(slide_path, tmp_path / "out", model=model)
    assert result[0].status == "done"
    assert set(result[0].probability) == {"dark", "bright"}
    store = result.store()
    before = store.patches().read("probability")
    wsikit.predict(store, model=model)
    np.testing.assert_array_equal(store.patches().read("probability"), before)


@pytest.mark.usefixtures("toy")
def test_a_folder_names_the_plug_in_that_reads_it(slide_path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architecture": "brightness"}))
    assert wsikit.describe_model(folder).name == "brightness"
    (folder / "config.json").write_text(json.dumps({"architecture": "unheard-of"}))
    with pytest.raises(PluginError, match="no plug-in 'unheard-of' for wsikit.models"):
        wsikit.describe_model(folder)


def test_a_plug_in_that_cannot_be_imported_is_named_with_its_error(
    install: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    install("wsikit.models", broken="no_such_module:Model")
    with pytest.raises(PluginError, match=r"'broken'.*toy 0.1.*No module named 'no_such_module'"):
        wsikit.describe_model("broken")


def test_a_model_that_breaks_its_description_is_refused(
    install: Callable[..., Path], slide_path: Path, tmp_path: Path
) -> None:
    install("wsikit.models")
    model = brightness()
    model.predict = lambda images: {"probability": np.ones((len(images), 3), np.float32)}  # type: ignore[attr-defined]
    store = wsikit.run(slide_path, tmp_path / "out", model=brightness()).store()
    table = store.patches()
    table.drop("probability")
    with pytest.raises(ModelError, match=r"column probability has shape \(\d+, 3\), expected \(\d+, 2\)"):
        wsikit.predict(store, model=model)


def test_it_passes_the_checks_that_our_own_models_pass(install: Callable[..., Path]) -> None:
    from wsikit.testing.models import check_model

    install("wsikit.models")
    model = brightness()
    check_model(model)
    model.predict = lambda images: {"probability": np.ones((len(images), 2), np.float32)}  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match="sum to 1"):
        check_model(model)
