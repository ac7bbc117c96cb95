"""The Python of the README runs as it is written, on a slide called slide.svs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import wsikit

README = Path(__file__).parents[1] / "README.md"


def test_the_python_example_runs_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert any('wsikit.run("slide.svs", "out")' in block for block in blocks)
    monkeypatch.chdir(tmp_path)
    wsikit.make_phantom("slide.svs", size_px=(1200, 1200))
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert (tmp_path / "out" / "results" / "slide" / "map.png").is_file()
    result = names["result"]
    assert isinstance(result, wsikit.RunResult)
    assert result.exit_status == 0
    assert isinstance(names["vote"], wsikit.SlideResult)
