"""One verb applied to several stores: each store is attempted, and each failure is reported in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import click

from wsikit.errors import RequestError, WsikitError


def for_each_store(stores: Sequence[str], act: Callable[[str], str]) -> int:
    """Apply `act` to each store and print the text that it returns. The exit status: 1 if a store failed, else 0."""
    failed = 0
    for store in stores:
        try:
            report = act(store)
        except RequestError:
            raise
        except WsikitError as error:
            failed += 1
            click.echo(f"wsikit: {error}", err=True)
        else:
            if report:
                click.echo(f"{store}: {report}")
    return 1 if failed else 0


def stores_at(path: str) -> list[Path]:
    """The store at a path, or those of the run whose folder it is; empty for anything else."""
    from wsikit.store.paths import place

    if is_store(path):
        return [place(path)]
    folder = place(path)
    if not (folder / "run.json").is_file():
        return []
    return [store for store in sorted((folder / "slides").glob("*.zarr")) if is_store(str(store))]


def is_store(path: str) -> bool:
    """Whether there is a complete store of wsikit."""
    from wsikit.errors import WsikitError
    from wsikit.slides.store import SlideStore

    if not path.rstrip("/").endswith(".zarr"):
        return False
    try:
        SlideStore.read_record(path)
    except (WsikitError, OSError):
        return False
    return True
