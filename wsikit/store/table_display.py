"""A patch table for people: as a data frame, and as a table in notebooks."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from wsikit.facts import FACTS
from wsikit.store.format2_names import FACT_COLUMN

if TYPE_CHECKING:
    import pandas as pd

    from wsikit.store.table import PatchTable


def table_frame(table: PatchTable) -> pd.DataFrame:
    """See `PatchTable.frame`."""
    import pandas as pd

    coords = table.coords
    data: dict[str, npt.NDArray[Any]] = {"x": coords[:, 0], "y": coords[:, 1]}
    units = {"x": "level-0 px", "y": "level-0 px"}
    for name in table.columns():
        if name == "coords":
            continue
        values = table.read(name)
        if values.ndim == 1:
            data[name] = values
        else:
            data.update({f"{name}:{label}": values[:, i] for i, label in enumerate(table.entries(name))})
        units.update(table.units(name))
    frame = pd.DataFrame(data)
    frame.attrs["units"] = units
    return frame


def column_units(table: PatchTable, name: str) -> dict[str, str]:
    """See `PatchTable.units`."""
    entries = table.entries(name)
    unit = str(table.attributes(name).get("unit", ""))
    if name == FACT_COLUMN:
        known = _fact_units()
        return {f"{name}:{entry}": known[entry] for entry in entries if known.get(entry)}
    if not unit:
        return {}
    return {f"{name}:{entry}": unit for entry in entries} if entries else {name: unit}


def table_html(table: PatchTable) -> str:
    """Grid, rows and columns as an HTML table."""
    grid = table.grid
    about = {
        "patch table": str(table.folder),
        "grid": f"{table.name}: {grid.patch_px} × {grid.patch_px} px at {grid.target_mpp:g} µm/px",
        "patches": f"{len(table):,}",
        **{f"column {name}": _column_words(table, name) for name in table.columns()},
    }
    rows = "".join(
        f"<tr><th style='text-align:left;padding-right:1em'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in about.items()
    )
    return f"<table style='border-collapse:collapse'>{rows}</table>"


def _column_words(table: PatchTable, name: str) -> str:
    """Type, entries and unit of a column, for display."""
    entries = table.entries(name)
    shown = ", ".join(entries[:8]) + (f", … ({len(entries)})" if len(entries) > 8 else "")
    unit = str(table.attributes(name).get("unit", ""))
    return " · ".join(part for part in (table.type_name(name), shown, unit) if part)


def _fact_units() -> dict[str, str]:
    """Unit of each measured fact that has one."""
    words = {"density": "optical density", "count": "per patch", "ratio": ""}
    return {name: words.get(fact.unit, fact.unit) for name, fact in FACTS.items()}
