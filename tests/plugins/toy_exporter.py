"""A toy exporter plug-in: class, vote and patches of a slide as a small text file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsikit.results.load import StoredResults


class Tally:
    name = "tally"
    folder = False
    options = ("column",)

    def write(self, results: StoredResults, path: Path, **options: Any) -> None:
        lines = [f"slide {results.slide_id}", f"subtype {results.subtype or results.reason}"]
        lines += [f"{code} {value:.3f}" for code, value in results.probability.items()]
        if "column" in options:
            lines.append(f"{options['column']} {results.table.read(options['column']).mean():.3f}")
        lines += [f"{x} {y}" for x, y in results.table.coords.tolist()]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


class Folder:
    name = "tally-folder"
    folder = True

    def write(self, results: StoredResults, path: Path, **options: Any) -> None:
        (path / f"{results.slide_id}.txt").write_text(results.reason, encoding="utf-8")
