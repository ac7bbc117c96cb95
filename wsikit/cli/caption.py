"""`wsikit caption`: captions for the patches of stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from wsikit.cli.captioner_options import captioner_options
from wsikit.cli.options import executor_of, executor_options, grid_option, stores_argument

if TYPE_CHECKING:
    from wsikit.cli.captioner_options import CaptionRequest
    from wsikit.inference.caption_columns import CaptionSummary


@click.command()
@stores_argument
@captioner_options
@click.option(
    "--model",
    metavar="NAME|DIR",
    help="With a budget: model whose image features decide which patches are similar; default: stain and texture.",
)
@click.option("--retry-failed", is_flag=True, help="Request failed captions again; keep the others.")
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@grid_option
@executor_options
def command(
    stores: tuple[str, ...],
    request: CaptionRequest,
    model: str | None,
    retry_failed: bool,
    device: str,
    grid: str | None,
    scheduler: str,
    workers: int | None,
) -> int:
    """Describe the patches of STORE: column caption, and caption_facts if the captioner measures facts.

    After an interruption it continues where it stopped. The same request keeps the captions; another prompt, model or
    budget replaces them. Output that is not a caption (loops, refusals, truncated or non-English text) and failed
    requests are recorded in caption_failure. Exit status 1: no patch of a store could be described.
    """
    from wsikit.captions import load_captioner
    from wsikit.captions.cache import cached
    from wsikit.captions.registry import MORPHOMETRY
    from wsikit.cli.console import make_console
    from wsikit.cli.progress import TerminalProgress
    from wsikit.cli.stores import for_each_store
    from wsikit.encoders.device import check_device
    from wsikit.errors import RequestError
    from wsikit.inference.caption import caption
    from wsikit.inference.caption_columns import summarize_captions
    from wsikit.worker_pool import shared_pool

    if model and request.budget is None:
        raise RequestError("--model is used to choose patches within a budget: also give --caption-budget N")
    check_device(device)
    executor = executor_of(scheduler, workers)
    # equal pixels are described once in all stores
    captioner = cached(load_captioner(request.captioner or MORPHOMETRY, request.options, device=device))
    similarity = None
    if model:
        from wsikit.models.registry import load_patch_model

        similarity = load_patch_model(model, device=device)  # type: ignore[arg-type]
    without_captions: list[str] = []
    with TerminalProgress(make_console()) as progress:

        def describe(store: str) -> str:
            table = caption(
                store,
                captioner=captioner,
                budget=request.budget,
                model=similarity,
                retry_failed=retry_failed,
                grid=grid,
                executor=executor,
                progress=progress,
            )
            found = summarize_captions(table)
            assert found is not None
            if found.failures and not found.described:
                without_captions.append(store)
            return f"{table.name}: {in_words(found, captioner.name)}"

        with shared_pool():
            status = for_each_store(stores, describe)
    return 1 if without_captions else status


def in_words(found: CaptionSummary, captioner: str) -> str:
    """One line on a table's captions, with the most frequent reasons of failures."""
    from collections import Counter

    parts = [f"{found.described} of {found.patches} patches described by {captioner}"]
    if found.shared:
        parts.append(f"{found.shared} share a caption")
    if found.without_text:
        parts.append(f"{found.without_text} without text")
    if found.failures:
        reasons = ", ".join(f"{number} × {reason}" for reason, number in Counter(found.failures).most_common(3))
        parts.append(f"{sum(found.failures.values())} failed ({reasons})")
    if found.scrubbed:
        parts.append(f"words naming the diagnosis removed from {found.scrubbed}")
    return "; ".join(parts)
