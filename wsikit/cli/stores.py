"""One verb over several stores: each is attempted, each failure is one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from wsikit.errors import RequestError, WsikitError


def for_each_store(stores: Sequence[str], act: Callable[[str], str]) -> int:
    """Run `act` on each store and print what it says (if anything). Exit status: 1 if any failed."""
    failed = 0
    for store in stores:
        try:
            said = act(store)
        except RequestError:
            raise
        except WsikitError as error:
            failed += 1
            click.echo(f"wsikit: {error}", err=True)
        else:
            if said:
                click.echo(f"{store}: {said}")
    return 1 if failed else 0
