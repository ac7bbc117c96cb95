"""Options that several verbs share. Light: nothing heavy is imported until an option is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from wsikit.execution import Executor

F = TypeVar("F", bound=Callable[..., Any])


def slides_argument(function: F) -> F:
    return click.argument("slides", nargs=-1, type=click.Path(), metavar="SLIDE|DIR…")(function)


def stores_argument(function: F) -> F:
    return click.argument("stores", nargs=-1, required=True, type=click.Path(), metavar="STORE…")(function)


def assume_mpp_option(function: F) -> F:
    return click.option(
        "--assume-mpp",
        type=float,
        metavar="µm/px",
        help="Pixel size at full resolution of slides that state none, e.g. 0.25. Recorded in every output.",
    )(function)


def grid_option(function: F) -> F:
    return click.option("--grid", metavar="NAME", help="Patch grid, e.g. 0.5um_224px; needed if a store has several.")(
        function
    )


def executor_options(function: F) -> F:
    function = click.option(
        "--workers", type=int, metavar="N", help="Threads (or processes) at once; default: one per CPU."
    )(function)
    return click.option(
        "--scheduler",
        default="threads",
        show_default=True,
        metavar="KIND|ADDRESS",
        help="threads, processes, or a running Dask cluster such as tcp://host:8786.",
    )(function)


def model_option(function: F) -> F:
    return click.option(
        "--model",
        metavar="NAME|DIR",
        help="Packaged model or a model's folder; default: the packaged demonstration model.",
    )(function)


def executor_of(scheduler: str, workers: int | None) -> Executor:
    """The executor that the two options name."""
    from wsikit.execution import Executor

    return Executor(scheduler, workers)
