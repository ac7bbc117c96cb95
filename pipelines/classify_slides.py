"""Classify a folder of slides: python pipelines/classify_slides.py pipelines/configs/classify_slides.yaml

The same as `wsikit run`, in a form to copy and change: every step is a call of the public API.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

import wsikit

KNOWN = {"slides", "manifest", "out", "assume_mpp", "model", "captioner", "min_tissue", "vote", "workers", "device"}


def load(path: Path) -> dict:
    """The configuration; paths in it are relative to where the command is run."""
    config = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    unknown = sorted(set(config) - KNOWN)
    if unknown:
        raise wsikit.RequestError(f"{path}: unknown setting {unknown[0]!r}; known are {', '.join(sorted(KNOWN))}")
    return config


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("config", type=Path)
    arguments.add_argument("-o", "--out", help="Overrides the configuration's out.")
    given = arguments.parse_args()
    config = load(given.config)
    slides = [*config.get("slides", []), *([config["manifest"]] if config.get("manifest") else [])]
    settings = {
        name: config[name] for name in ("model", "captioner", "min_tissue", "workers", "device") if name in config
    }
    result = wsikit.run(
        slides,
        given.out or config["out"],
        mpp=config.get("assume_mpp"),
        vote=wsikit.VoteParameters(**config.get("vote", {})),
        on_slide=lambda row: print(f"{row.slide_id}: {row.summary()}", flush=True),
        **settings,
    )
    return result.exit_status


if __name__ == "__main__":
    sys.exit(main())
