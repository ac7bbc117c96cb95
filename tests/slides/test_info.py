"""`wsikit info`."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from wsikit.cli.info import command
from wsikit.errors import RequestError


def run(*arguments: str):
    return CliRunner().invoke(command, arguments, standalone_mode=False)


def test_people_get_sizes_with_units_and_the_source_of_the_scale(pyramid):
    result = run(str(pyramid))
    assert result.return_value == 0
    words = " ".join(result.stdout.split())
    assert "640 × 480 px (0.16 × 0.12 mm)" in words
    assert "0.25 µm/px, from TIFF XResolution" in words
    assert "read with tiff" in words
    assert "160 × 120 px (4×)" in words


def test_scripts_get_one_json_object_per_slide(pyramid, picture):
    result = run(str(pyramid), str(picture), "--json")
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["reader"] for record in records] == ["tiff", "image"]
    assert records[0]["level_downsamples"] == [[1.0, 1.0], [2.0, 2.0], [4.0, 4.0]]
    assert records[0]["mpp"] == pytest.approx([0.25, 0.25])


def test_a_broken_slide_does_not_stop_the_others_and_is_counted(tmp_path, pyramid):
    broken = tmp_path / "broken.svs"
    broken.write_bytes(b"no slide")
    result = run(str(broken), str(pyramid), "--json")
    assert result.return_value == 1
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert first["path"] == str(broken)
    assert "does not begin" in first["error"]
    assert second["dimensions"] == [640, 480]
    assert len(result.stderr.splitlines()) == 1


def test_a_missing_scale_is_reported_with_the_ways_to_give_it(tmp_path, levels, write_pyramid):
    path = write_pyramid(tmp_path / "slide.tiff", levels, mpp=None)
    words = " ".join(run(str(path)).stdout.split())
    assert "not stated" in words
    assert "--assume-mpp" in words


def test_an_unknown_reader_is_refused_with_the_names_of_all_readers(pyramid):
    result = run(str(pyramid), "--reader", "bioformats")
    assert isinstance(result.exception, RequestError)
    assert "choose auto or one of tiff, multichannel, ndpi" in str(result.exception)
