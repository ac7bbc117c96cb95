"""What `wsikit.run` returns: the row of each slide, as a sequence, a data frame, and a table in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsikit.batch import records
from wsikit.batch.records import SlideRow
from wsikit.batch.timing import RunTime

if TYPE_CHECKING:
    import pandas as pd

    from wsikit.slides.store import SlideStore


@dataclass(frozen=True)
class RunResult:
    """Result of a run: one row per slide, as in OUT/slides.csv."""

    out: Path
    rows: tuple[SlideRow, ...]
    changes: tuple[str, ...] = ()
    """Settings that differ from those of the previous run in `out`, one line each."""
    notes: tuple[str, ...] = ()
    """Remarks on the input: what was passed over, and columns of a manifest that are not used."""
    time: RunTime | None = None
    """What the run spent its time on; None if nothing was to do."""

    @property
    def failed(self) -> tuple[SlideRow, ...]:
        """Rows of the slides that failed."""
        return tuple(row for row in self.rows if row.status == records.FAILED)

    @property
    def exit_status(self) -> int:
        """0: every slide is done; 1: some are not."""
        return 0 if all(row.status == records.DONE for row in self.rows) else 1

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[SlideRow]:
        return iter(self.rows)

    def __getitem__(self, slide: int | str) -> SlideRow:
        """A row by its number or its slide id."""
        if isinstance(slide, int):
            return self.rows[slide]
        for row in self.rows:
            if row.slide_id == slide:
                return row
        raise KeyError(slide)

    def store(self, slide: int | str = 0) -> SlideStore:
        """The store of a slide, by its number or its slide id."""
        from wsikit.slides.store import SlideStore

        return SlideStore(self.out / "slides" / f"{self[slide].slide_id}.zarr")

    def frame(self) -> pd.DataFrame:
        """The rows as a data frame, with one column per class probability; µm/px, mm², seconds as named."""
        import pandas as pd

        return pd.DataFrame([records.flat_row(row) for row in self.rows])

    def __repr__(self) -> str:
        done = sum(row.status == records.DONE for row in self.rows)
        lines = [f"<RunResult: {done} of {len(self.rows)} slides done, in {self.out}>"]
        lines += [f"  {row.slide_id}: {row.summary()}" for row in self.rows[:20]]
        if len(self.rows) > 20:
            lines.append(f"  … and {len(self.rows) - 20} more")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from html import escape

        cells = "".join(
            f"<tr><td>{escape(row.slide_id)}</td><td>{escape(row.summary())}</td>"
            f"<td style='text-align:right'>{'' if row.n_patches is None else row.n_patches}</td>"
            f"<td style='text-align:right'>{'' if row.tissue_mm2 is None else f'{row.tissue_mm2:.3g}'}</td></tr>"
            for row in self.rows
        )
        head = "<tr><th>slide</th><th>result</th><th>patches</th><th>tissue, mm²</th></tr>"
        return f"<table>{head}{cells}</table><p>{escape(str(self.out / 'index.html'))}</p>"
