"""An exporter: the result of a slide as a few lines of Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wsikit.results.load import StoredResults


class Summary:
    name = "summary"
    folder = False  # it writes one file; True: a folder, in which files of other slides are kept

    def write(self, results: StoredResults, path: Path, **options: Any) -> None:
        """Write `path`, a temporary name: wsikit renames it when this returns, and removes it when this fails."""
        vote = results.result  # None if no vote was made: then `reason` says why
        outcome = results.subtype or (f"no subtype: {vote.reason}" if vote else results.reason)
        lines = [f"# {results.slide_id}", "", f"Result: {outcome}", ""]
        lines += ["| class | share |", "|---|---|"]
        lines += [f"| {code} | {share:.3f} |" for code, share in results.probability.items()]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
