"""Classify a folder of slides: python pipelines/classify_slides.py pipelines/configs/classify_slides.yaml

The same as `wsikit run`, in a form to copy and change: every step is a call of the public API.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml
from rich.console import Console

from wsikit.batch.manifest import collect
from wsikit.batch.records import SlideRow, taken_ids
from wsikit.batch.runner import RunParameters, run
from wsikit.cli.progress import TerminalProgress
from wsikit.errors import RequestError
from wsikit.executor import Executor
from wsikit.inference.stages import VoteParameters

KNOWN = {"slides", "manifest", "out", "assume_mpp", "model", "captioner", "min_tissue", "vote", "workers", "device"}


def load(path: Path) -> dict:
    """The configuration; paths in it are relative to where the command is run."""
    config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    unknown = sorted(set(config) - KNOWN)
    if unknown:
        raise RequestError(f"{path}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(KNOWN))}")
    return config


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("config", type=Path)
    arguments.add_argument("-o", "--out", help="Overrides the configuration's out.")
    given = arguments.parse_args()
    config = load(given.config)
    out = Path(given.out or config["out"])

    entries = collect(
        config.get("slides", []),
        manifest=config.get("manifest"),
        assume_mpp=config.get("assume_mpp"),
        taken=taken_ids(out),
    )
    chosen = {name: config[name] for name in ("model", "captioner", "min_tissue") if name in config}
    parameters = RunParameters(**chosen, vote=VoteParameters(**config.get("vote", {})))
    console = Console()

    def tell(row: SlideRow) -> None:
        console.print(f"{row.slide_id}: {row.status} {row.subtype or row.reason or row.error or ''}", highlight=False)

    with TerminalProgress(console) as progress:
        summary = run(
            entries,
            out,
            parameters=parameters,
            executor=Executor(workers=config.get("workers")),
            device=config.get("device", "auto"),
            progress=progress,
            on_slide=tell,
        )
    return summary.exit_status


if __name__ == "__main__":
    sys.exit(main())
