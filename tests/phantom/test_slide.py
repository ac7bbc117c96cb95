"""The slide file: a pyramid that other readers open, the same bytes from the same seed, bounded memory."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from click.testing import CliRunner

from wsikit.cli.phantom import command
from wsikit.errors import RequestError
from wsikit.phantom import make_phantom
from wsikit.phantom.pyramid import halve, level_sizes
from wsikit.phantom.recipe import draw_recipe
from wsikit.phantom.render import Scene


def _digests(slide: Path) -> dict[str, str]:
    found = sorted(slide.parent.glob(f"{slide.stem}.t*"))
    return {path.suffix + path.suffixes[0]: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def test_openslide_reads_levels_and_pixel_size(tmp_path: Path) -> None:
    make_phantom(tmp_path / "a.tiff", size_px=(2100, 1030), mpp=0.5, subtype="PD", seed=2)
    with openslide.OpenSlide(tmp_path / "a.tiff") as slide:
        assert slide.properties["openslide.vendor"] == "generic-tiff"
        assert slide.level_dimensions == ((2100, 1030), (1050, 515), (525, 258))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5, abs=1e-6)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.5, abs=1e-6)
        assert slide.properties["tiff.ImageDescription"].startswith("wsikit phantom, synthetic, not tissue")
    with tifffile.TiffFile(tmp_path / "a.tiff") as tiff:
        assert [page.compression.name for page in tiff.pages] == ["JPEG"] * 3
        levels = [page.asarray().astype(float) for page in tiff.pages]
    scene = Scene(draw_recipe(2, "PD", (1050.0, 515.0)), 0.5)
    rendered = scene.render((512, 256, 512, 512)).astype(float)
    assert np.abs(levels[0][256:768, 512:1024] - rendered).mean() < 6  # JPEG alone
    averaged = rendered.reshape(128, 4, 128, 4, 3).mean((1, 3))
    gray = levels[2][64:192, 128:256].mean(axis=2) - averaged.mean(axis=2)
    assert np.abs(gray).mean() < 5  # a shift by one pixel gives more than 10


def test_five_levels_join_up(tmp_path: Path) -> None:
    make_phantom(tmp_path / "a.tiff", size_px=(9000, 700), seed=5, tissue_fraction=0.2)
    with tifffile.TiffFile(tmp_path / "a.tiff") as tiff:
        shapes = [page.shape[:2] for page in tiff.pages]
        assert shapes == [(700, 9000), (350, 4500), (175, 2250), (88, 1125), (44, 563)]
        finer, coarser = (tiff.pages[n].asarray().astype(float) for n in (2, 4))
    averaged = finer[:172, :2248].reshape(43, 4, 562, 4, 3).mean((1, 3))
    assert np.abs(averaged - coarser[:43, :562]).mean() < 4
    assert averaged.std() > 5


def test_the_same_seed_gives_the_same_files_and_another_seed_others(tmp_path: Path) -> None:
    for folder, seed in (("one", 4), ("two", 4), ("three", 5)):
        make_phantom(tmp_path / folder / "s.tiff", size_px=(700, 500), seed=seed)
    one, two, three = (_digests(tmp_path / folder / "s.tiff") for folder in ("one", "two", "three"))
    assert len(one) == 4
    assert one == two
    assert all(one[kind] != three[kind] for kind in one)


@pytest.mark.slow
def test_workers_change_nothing(tmp_path: Path) -> None:
    for folder, workers in (("one", 1), ("two", 2)):
        make_phantom(tmp_path / folder / "s.tiff", size_px=(2100, 1100), seed=4, workers=workers)
    assert _digests(tmp_path / "one" / "s.tiff") == _digests(tmp_path / "two" / "s.tiff")


def test_memory_does_not_grow_with_the_slide(tmp_path: Path) -> None:
    make_phantom(tmp_path / "warm.tiff", size_px=(600, 600), tissue_fraction=0.3)  # textures and drawings
    tracemalloc.start()
    truth = make_phantom(tmp_path / "s.tiff", size_px=(24_000, 9_000), seed=1, tissue_fraction=0.004, artefacts=False)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6  # the pixels alone would be 648 MB
    assert 0.05 < truth.tissue_mm2 < 1
    with openslide.OpenSlide(tmp_path / "s.tiff") as slide:
        assert slide.dimensions == (24_000, 9_000)
    assert (tmp_path / "s.tiff").stat().st_size < 60e6


def test_a_failure_leaves_no_half_slide(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        make_phantom(tmp_path / "s.tiff", size_px=(2100, 1100), tissue_fraction=0.1, progress=stop)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"subtype": "XX"}, "subtype 'XX'"),
        ({"mpp": 3.0}, "µm/px"),
        ({"seed": -1}, "seed -1"),
        ({"tissue_fraction": 1.5}, "between 0 and 1"),
        ({"quality": 0}, "quality 0"),
    ],
)
def test_impossible_requests_are_refused(tmp_path: Path, wrong: dict, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        make_phantom(tmp_path / "s.tiff", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_level_sizes_and_halving() -> None:
    assert level_sizes((4096, 1000)) == [(4096, 1000), (2048, 500), (1024, 250)]
    odd = np.array([[[0], [2], [10]], [[4], [6], [20]], [[8], [8], [30]]], np.uint8)
    assert halve(odd)[..., 0].tolist() == [[3, 15], [8, 30]]


def test_the_command_makes_a_folder_of_slides(tmp_path: Path) -> None:
    run = CliRunner().invoke(command, [str(tmp_path / "out"), "--size", "600x400", "--seed", "3", "--count", "2"])
    assert run.exit_code == 0, run.output
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tiff")) == ["phantom_PD_3.tiff", "phantom_PD_4.tiff"]
    assert "not tissue" in run.output
    wrong = CliRunner().invoke(command, [str(tmp_path / "x.tiff"), "--size", "600by400"])
    assert wrong.exit_code == 2
    assert "WIDTHxHEIGHT" in wrong.output
    assert CliRunner().invoke(command, [str(tmp_path / "x.tiff"), "--count", "2"]).exit_code == 2


def test_importing_the_package_loads_no_torch_and_making_a_slide_neither(tmp_path: Path) -> None:
    code = (
        "import sys, wsikit.phantom; heavy = {'torch', 'transformers', 'sklearn', 'scipy', 'tifffile'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        f"wsikit.phantom.make_phantom({str(tmp_path / 'p.tiff')!r}, size_px=(512, 512))\n"
        "assert not {'torch', 'transformers', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
