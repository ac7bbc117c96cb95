"""docs/encoders.md has the table of the presets of today."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_the_page_is_that_of_the_presets() -> None:
    scope: dict[str, object] = {"__name__": "encoders_table", "__file__": str(DOCS / "encoders_table.py")}
    exec(compile((DOCS / "encoders_table.py").read_text(encoding="utf-8"), "encoders_table.py", "exec"), scope)
    page = (DOCS / "encoders.md").read_text(encoding="utf-8")
    assert scope["with_table"](page) == page, "run: python docs/encoders_table.py"  # type: ignore[operator]
