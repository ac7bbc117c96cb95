"""examples/omero/post_regions.py, with a stand-in for ezomero: what it would send for the regions of an export."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "omero" / "post_regions.py"
SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]
HOLE = [[2, 2], [4, 2], [4, 4], [2, 2]]


@dataclass(frozen=True)
class Polygon:
    """The fields of ezomero.rois.Polygon (3.2.3) that are used."""

    points: list[tuple[float, float]]
    label: str | None = None
    fill_color: tuple[int, int, int, int] | None = None
    stroke_color: tuple[int, int, int, int] | None = None
    stroke_width: float | None = None


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("post_regions", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    server = ModuleType("ezomero")
    module.sent = []
    module.closed = []
    server.rois = SimpleNamespace(Polygon=Polygon)  # type: ignore[attr-defined]
    server.connect = lambda **given: SimpleNamespace(close=lambda: module.closed.append(given))  # type: ignore[attr-defined]
    server.post_roi = lambda conn, image, shapes, **words: module.sent.append((image, shapes, words))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ezomero", server)
    return module


def write(path: Path, *parts: list[list[list[int]]], frame: str = "level0") -> Path:
    properties = {"classification": {"name": "stroma", "color": [1, 2, 3]}, "measurements": {"area_mm2": 0.25}}
    feature = {"type": "Feature", "geometry": {"type": "MultiPolygon", "coordinates": parts}, "properties": properties}
    path.write_text(json.dumps({"type": "FeatureCollection", "wsikit": {"frame": frame}, "features": [feature]}))
    return path


def test_each_region_is_an_roi_with_its_class_colour_and_area(
    script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "r.geojson", [SQUARE, HOLE], [SQUARE])
    script.main([str(file), "7", "--host", "omero.example", "--user", "me"])
    (image, shapes, words), *others = script.sent
    assert (image, others) == (7, [])
    assert words == {"name": "stroma", "description": "0.25 mm²"}
    assert [one.points for one in shapes] == [[(0, 0), (10, 0), (10, 10), (0, 10)]] * 2
    assert (shapes[0].label, shapes[0].stroke_color) == ("stroma", (1, 2, 3, 255))
    assert "have none: 1." in capsys.readouterr().out
    assert len(script.closed) == 1


def test_coordinates_of_another_frame_are_refused(script: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        script.main([str(write(tmp_path / "r.geojson", [SQUARE], frame="bounds")), "7", "--host", "h", "--user", "u"])
    assert script.sent == []
