"""`wsikit features`: stores, slides and folders; what failed, what is up to date, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import wsikit
from wsikit.cli.main import cli
from wsikit.encoders.registry import load_encoder
from wsikit.slides.store import SlideStore

NAME = "random:resnet10t"
COLUMN = "features_random-resnet10t"


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "s.tiff"
    wsikit.make_phantom(path, size_px=(500, 500))
    return path


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["features", *map(str, arguments), "--device", "cpu"], standalone_mode=False)


def test_a_slide_is_tiled_and_encoded_and_a_second_call_says_that_nothing_is_to_do(slide: Path, tmp_path: Path) -> None:
    first = call(slide, "--encoder", NAME, "-o", tmp_path)
    assert first.return_value == 0, first.output
    assert COLUMN in first.output
    assert "patches/s, bound by" in first.output
    assert "Random weights" in first.output
    second = call(slide, "--encoder", NAME, "-o", tmp_path)
    assert second.return_value == 0
    assert "up to date" in second.output
    table = SlideStore(tmp_path / "s.zarr").patches()
    assert table.read(COLUMN).shape == (len(table), load_encoder(NAME, device="cpu").info.width)


def test_one_damaged_store_does_not_stop_the_others(slide: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        wsikit.tile(slide, tmp_path / f"{name}.zarr")
    shutil.rmtree(tmp_path / "a.zarr" / "0")
    result = call(tmp_path / "a.zarr", tmp_path / "b.zarr", "--encoder", NAME)
    assert result.return_value == 1
    assert "a.zarr" in result.output
    assert COLUMN in SlideStore(tmp_path / "b.zarr").patches().columns()


def test_the_stages_of_several_slides_are_named_by_their_slide_and_one_without_tissue_says_so(
    slide: Path, tmp_path: Path
) -> None:
    Image.fromarray(np.full((600, 600, 3), 245, np.uint8)).save(tmp_path / "glass.png")
    out = tmp_path / "stores"
    result = call(slide, tmp_path / "glass.png", "--assume-mpp", "0.5", "--encoder", NAME, "-o", out)
    assert result.return_value == 0, result.output
    assert "s: tissue: started" in result.output
    assert "glass: tissue: started" in result.output
    assert "no patches, as no tissue was found" in result.output


def test_a_folder_of_stores_is_encoded_in_place(slide: Path, tmp_path: Path) -> None:
    wsikit.tile(slide, tmp_path / "stores" / "a.zarr")
    assert call(tmp_path / "stores", "--encoder", NAME, "--mpp", "1").return_value == 0
    store = SlideStore(tmp_path / "stores" / "a.zarr")
    assert store.grids() == ["0.5um_224px", "1um_176px"]
    assert COLUMN in store.patches("1um_176px").columns()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--encoder", "no-such-encoder"], "no-such-encoder"),
        (["--encoder", NAME], "-o DIR"),
        (["--encoder", NAME, "--encoder", NAME], "same name"),
        (["--encoder", NAME, "--shared"], "no texts"),
        (["--encoder", NAME, "--grid", "0.5um_224px", "--mpp", "1"], "not both"),
    ],
)
def test_wrong_requests_are_refused_in_one_line(slide: Path, arguments: list[str], said: str) -> None:
    result = call(slide, *arguments)
    assert isinstance(result.exception, wsikit.RequestError)
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)


@pytest.mark.parametrize("option", ["--download", "--engine", "--precision"])
def test_run_takes_the_options_of_an_encoder_in_the_same_words(option: str) -> None:
    features, run = (
        next(one for one in cli.get_command(None, verb).params if option in one.opts).to_info_dict()  # type: ignore
        for verb in ("features", "run")
    )
    assert features == run


def test_run_passes_them_on(slide: Path, tmp_path: Path) -> None:
    def run(*options: str) -> str:
        words = ["run", str(slide), "-o", str(tmp_path / "out"), "--device", "cpu", "--dry-run", *options]
        result = CliRunner().invoke(cli, words, standalone_mode=False)
        return str(result.exception) if result.exception else result.output

    assert "engine torch, precision bfloat16" in run(
        "--features", "random:vit-s16", "--engine", "torch", "--precision", "bfloat16"
    )
    assert "for GPUs" in run("--features", "random:vit-s16", "--precision", "float16")
    assert "add --features" in run("--engine", "torch")
