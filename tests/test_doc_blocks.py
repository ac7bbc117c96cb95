"""The code in the documents runs as it is written, page by page, in a folder with a slide called slide.svs.

Python blocks of a page share their names. Of bash blocks the lines that begin with `wsikit` run. A block that cannot
run here has the comment `<!-- not run: REASON -->` on the line before.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import wsikit
from wsikit.cli.main import main

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>.+?) -->\n)?^```(?P<language>python|bash)\n(?P<code>.*?)^```", re.M | re.S
)
PAGES = [path for path in sorted((ROOT / "docs").rglob("*.md")) if BLOCK.search(path.read_text(encoding="utf-8"))]


@pytest.fixture(scope="session")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("documents") / "slide.svs"
    wsikit.make_phantom(path, size_px=(1200, 1200))
    return path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT / "docs")))
def test_the_code_of_a_page_runs_as_written(
    page: Path, slide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "slide.svs").write_bytes(slide.read_bytes())
    names: dict[str, object] = {"__name__": "document"}
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["reason"]:
            continue
        if block["language"] == "python":
            exec(compile(block["code"], str(page), "exec"), names)
            continue
        for command in _commands(block["code"]):
            status = _run(command)
            assert status == 0, f"{page.name}: {command}"


def _commands(code: str) -> list[str]:
    lines = code.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("wsikit ")]


def _run(command: str) -> int:
    try:
        main(shlex.split(command, comments=True)[1:])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def test_a_reason_is_given_for_each_block_that_does_not_run() -> None:
    skipped = [
        (page.name, block["reason"])
        for page in PAGES
        for block in BLOCK.finditer(page.read_text(encoding="utf-8"))
        if block["reason"]
    ]
    assert [page for page, reason in skipped if len(reason.split()) < 2] == []
