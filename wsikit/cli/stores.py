"""One verb applied to several stores: each store is attempted, and each failure is reported in one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
