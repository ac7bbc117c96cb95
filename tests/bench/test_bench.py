"""Readers compared on a small slide: the same patches; a reader that fails gives a reason."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import tifffile

from wsikit.bench.measure import Bottleneck, ReaderSpeed, bench
from wsikit.bench.passes import Job, pass_of
from wsikit.bench.readers import OTHERS
from wsikit.cli.main import main
from wsikit.errors import RequestError
from wsikit.tiling.tile import tile


def test_every_reader_has_its_numbers_or_a_reason(slide_path: Path, tmp_path: Path) -> None:
    tile(slide_path, tmp_path / "s.zarr").close()
    calls: list[int] = []
    result = bench(
        slide_path,
        store=tmp_path / "s.zarr",
        patches=6,
        repeat=2,
        others=("openslide", "tiffslide", "cucim"),
        on_pass=lambda: calls.append(1),
    )
    record = json.loads(json.dumps(result.to_json()))
    assert record["patches"] == 6
    assert record["source_mp"] == pytest.approx(6 * 224 * 224 / 1e6)
    assert len(calls) == 3 * 6
    for name in ("limit", "wsikit", "store", "openslide", "tiffslide", "cucim"):
        found = record[name]
        if "reason" in found:
            assert name == "cucim", found
            assert "\n" not in found["reason"]
            continue
        assert len(found["seconds"]) == 2
        middle = sum(found["seconds"]) / 2
        assert found["patches_per_s"] == pytest.approx(6 / middle, rel=0.05)
        assert found["mp_per_s"] == pytest.approx(6 * 224 * 224 / 1e6 / middle, rel=0.05, abs=0.06)
        assert found["peak_rss_mb"] > 10
    assert record["openslide"]["peak_rss_mb"] < 150, "its own memory, not that of this process"
    assert record["limit"]["ratio_to_limit"] == 1
    assert record["peak_rss_mb"] == record["wsikit"]["peak_rss_mb"]
    shares = record["bottleneck"]
    assert shares["decode"] + shares["io"] + shares["overhead"] == pytest.approx(1, abs=0.01)


def test_a_file_that_others_cannot_read_gives_a_one_line_reason(slide_path: Path, tmp_path: Path) -> None:
    tile(slide_path, tmp_path / "s.zarr").close()
    result = bench(tmp_path / "s.zarr", patches=4, repeat=1, others=("openslide", "tiffslide"))
    assert result.readers["wsikit"].patches_per_s
    for name in ("openslide", "tiffslide"):
        assert result.readers[name].patches_per_s is None
        assert result.readers[name].reason


@pytest.mark.parametrize("name", ["openslide", "tiffslide", "pyvips", "fastslide"])
def test_the_other_readers_read_what_the_slide_shows(
    name: str, slide_path: Path, pixels: npt.NDArray[np.uint8]
) -> None:
    pytest.importorskip(name)
    reader = OTHERS[name](str(slide_path))
    try:
        found = reader.read(300, 200, 0, 70, 50)
    except RuntimeError as error:
        pytest.skip(f"{name} does not read deflate: {error}")
    finally:
        reader.close()
    assert np.array_equal(found, pixels[200:250, 300:370])


def test_the_limit_decodes_the_tiles_under_the_patches_and_no_others(
    slide_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsikit.slides.formats.tiff.reader import TiffSlide

    decoded: list[tuple[int, int]] = []
    real = TiffSlide.tile

    def counted(self: TiffSlide, level: int, column: int, row: int, *, keep: bool = True) -> npt.NDArray[np.uint8]:
        if not keep:  # opening the slide looks at a few tiles, which it keeps
            decoded.append((column, row))
        return real(self, level, column, row, keep=keep)

    monkeypatch.setattr(TiffSlide, "tile", counted)
    job = Job(str(slide_path), "limit", (1.0, 1.0), 1.0, 224, ((128, 256), (352, 256)), 1)
    timings = pass_of(job)()
    assert sorted(decoded) == [(column, row) for column in range(1, 5) for row in range(2, 4)]
    assert timings["io_seconds"] > 0


def test_jobs_survive_json() -> None:
    job = Job("a.svs", "wsikit", (0.25, 0.26), 0.5, 224, ((1, 2), (3, 4)), 2)
    assert Job.from_json(json.loads(json.dumps(job.to_json()))) == job


def test_a_process_that_dies_is_a_reason_not_a_hang(slide_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wsikit.bench import measure

    monkeypatch.setattr(measure.sys, "executable", "/bin/false")
    result = bench(slide_path, patches=2, repeat=1, others=())
    assert "status 1" in (result.readers["wsikit"].reason or "")
    assert result.bottleneck is None


def test_a_reader_that_never_answers_is_stopped(
    slide_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsikit.bench import measure

    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o755)
    monkeypatch.setattr(measure.sys, "executable", str(silent))
    monkeypatch.setattr(measure, "PATIENCE_S", 0.2)
    assert bench(slide_path, patches=2, repeat=1, others=()).readers["wsikit"].reason == "no answer in 0.2 s"


def test_the_bottleneck_is_the_largest_share() -> None:
    assert "bottleneck is decoding" in Bottleneck(0.8, 0.05, 0.15).line
    assert "bottleneck is reading the file" in Bottleneck(0.2, 0.6, 0.2).line
    assert "15% assembling patches" in Bottleneck(0.8, 0.05, 0.15).line


def test_a_slide_smaller_than_a_patch_is_refused(slide_path: Path) -> None:
    with pytest.raises(RequestError, match="no whole patch"):
        bench(slide_path, patch_px=5000, others=())


@pytest.mark.parametrize("arguments", [[], ["--mpp", "1"]])
def test_the_verb_prints_a_table_or_json(
    slide_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "__kwdefaults__", {**(bench.__kwdefaults__ or {}), "others": ("openslide",)})
    for extra in ([], ["--json"]):
        with pytest.raises(SystemExit) as ended:
            main(["bench", str(slide_path), "--patches", "4", "--repeat", "1", *arguments, *extra])
        assert ended.value.code == 0
    out = capsys.readouterr().out
    assert "bottleneck is" in out
    record = json.loads(out.splitlines()[-1])
    assert {"limit", "wsikit", "openslide", "peak_rss_mb"} <= set(record)
    assert record["mpp"] == (1.0 if arguments else None)


def test_false_colours_of_another_reader_are_stated_before_its_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """JPEG 2000 of Aperio's code 33003 is YCbCr; TiffSlide hands it out as RGB."""
    rng = np.random.default_rng(0)
    smooth = rng.integers(150, 220, (8, 8, 3)).repeat(64, axis=0).repeat(64, axis=1).astype(np.uint8)
    smooth[..., 1] //= 2  # purple, so that the colours are not neutral
    smooth[:128] = 245  # glass
    description = "Aperio Image Library v10\n512x512 (256x256) J2K/YUV16 Q=70|AppMag = 20|MPP = 0.5"
    red, green, blue = (smooth[..., channel].astype(float) for channel in range(3))
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    coded = np.stack([luma, 128 + (blue - luma) / 1.772, 128 + (red - luma) / 1.402], axis=-1)
    path = tmp_path / "slide.svs"
    tifffile.imwrite(
        path, coded.round().clip(0, 255).astype(np.uint8), tile=(256, 256), description=description, metadata=None,
        compression=33003, compressionargs={"codecformat": "j2k", "level": 0, "mct": False}, photometric="rgb",
    )  # fmt: skip
    result = bench(path, patches=4, repeat=1, others=("openslide", "tiffslide"))
    right, false = result.readers["openslide"], result.readers["tiffslide"]
    assert right.difference is not None
    assert right.difference < 2
    assert right.remark == ""
    assert false.difference is not None
    assert false.difference > 20
    assert "OTHER PIXELS" in false.remark
    assert false.patches_per_s
    assert result.to_json()["tiffslide"]["difference"] == false.difference
    monkeypatch.setattr("wsikit.bench.measure.bench", lambda *_, **__: result)
    with pytest.raises(SystemExit):
        main(["bench", str(path)])
    assert "OTHER PIXELS" in " ".join(capsys.readouterr().out.split())


def test_a_reader_states_what_its_numbers_are_about(slide_path: Path) -> None:
    """The wheel of pyvips has no OpenSlide: its numbers are those of libvips' own TIFF loader."""
    pytest.importorskip("pyvips")
    found = bench(slide_path, patches=4, repeat=1, others=("pyvips",)).readers["pyvips"]
    assert found.note is not None
    assert "libvips' own loader" in found.note
    assert "not OpenSlide" in found.remark


def test_only_what_must_be_known_is_remarked() -> None:
    assert ReaderSpeed(difference=0.4).remark == ""
    assert ReaderSpeed(difference=None, note="a note").remark == "a note"
    assert ReaderSpeed(difference=40.0, note="a note").remark.startswith("a note; OTHER PIXELS")
    assert ReaderSpeed(reason="not installed", note="a note").remark == "not installed"
