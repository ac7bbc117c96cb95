"""Writes the table of docs/encoders.md from the presets: `python docs/encoders_table.py`."""

from __future__ import annotations

from pathlib import Path

from wsikit.encoders.presets import Preset, presets

PAGE = Path(__file__).parent / "encoders.md"
BEGIN, END = "<!-- table: python docs/encoders_table.py -->\n", "<!-- end of table -->\n"
POOLING = {"model": "model's own", "cls": "class token", "cls+mean": "class token + mean"}


def table() -> str:
    """All presets as Markdown."""
    head = (
        "| name | width | patch, px | µm/px | pooling | texts | licence | gated |\n|---|--:|--:|--:|---|---|---|---|\n"
    )
    return head + "".join(_row(preset) for preset in presets().values())


def with_table(text: str) -> str:
    """The page with the table of today."""
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


def _row(preset: Preset) -> str:
    cells = (
        f"[{preset.name}]({preset.page})",
        str(preset.width),
        str(preset.patch_px),
        "any" if preset.mpp is None else f"{preset.mpp:g}",
        POOLING[preset.pooling],
        "yes" if preset.shared_width is not None else "no",
        preset.licence,
        "yes" if preset.gated else "no",
    )
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
