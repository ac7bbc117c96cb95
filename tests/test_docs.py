"""The documents name files, modules and links that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path for place in (".", "docs", "docs/decisions", "benchmarks") for path in (ROOT / place).glob("*.md")
)


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_every_link_to_a_file_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
    missing = [target for target in targets if "://" not in target and not (document.parent / target).exists()]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_every_named_file_of_the_package_exists(document: Path) -> None:
    named = re.findall(r"`((?:wsikit|tests|pipelines|benchmarks|docs)/[\w./-]+)`", document.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_picture_of_the_architecture_is_the_one_that_its_script_draws() -> None:
    script = ROOT / "docs" / "images" / "architecture.py"
    scope: dict[str, object] = {"__name__": "architecture", "__file__": str(script)}
    exec(compile(script.read_text(encoding="utf-8"), str(script), "exec"), scope)
    drawn = scope["picture"]()  # type: ignore[operator]
    assert drawn == script.with_suffix(".svg").read_text(encoding="utf-8")


def test_the_architecture_names_every_room() -> None:
    rooms = {path.parent.name for path in (ROOT / "wsikit").glob("*/__init__.py")}
    picture = (ROOT / "docs" / "images" / "architecture.svg").read_text(encoding="utf-8")
    assert [room for room in sorted(rooms) if room not in picture] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_every_named_test_exists(document: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", document.read_text(encoding="utf-8")))
    files = list((ROOT / "tests").rglob("test_*.py"))
    known = {path.stem for path in files}
    for path in files:
        known.update(re.findall(r"def (test_\w+)", path.read_text(encoding="utf-8")))
    assert named - known == set()


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_no_figure_is_still_to_be_filled_in(document: Path) -> None:
    assert re.findall(r"@[A-Z_]{3,}@|\bTODO\b|\bTBD\b|\bXXX\b", document.read_text(encoding="utf-8")) == []
