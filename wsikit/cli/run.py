"""`wsikit run`: the main job, from slide files to subtypes, maps and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from wsikit.cli.captioner_options import captioner_options
from wsikit.cli.options import (
    assume_mpp_option,
    executor_of,
    executor_options,
    image_options,
    model_option,
    roi_options,
    slides_argument,
)

# those that need nothing else to be set, and no column that a run does not make
VOTE_METHODS = ("mean", "hard", "log", "soft_clinical", "confidence", "gate", "topk", "quantile", "noisy_or")

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from wsikit.batch.manifest import SlideEntry
    from wsikit.batch.records import SlideRow
    from wsikit.batch.runner import RunParameters, RunSummary
    from wsikit.cli.captioner_options import CaptionRequest
    from wsikit.cli.progress import TerminalProgress
    from wsikit.executor import Executor
    from wsikit.tiling.plan import ImageParameters


@click.command()
@slides_argument
@click.option(
    "--manifest",
    type=click.Path(exists=True, dir_okay=False),
    metavar="CSV",
    help="Table of slides: path, and where wanted slide_id and mpp (µm/px).",
)
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="Folder for all results.")
@model_option
@captioner_options
@click.option(
    "--min-tissue", default=0.25, show_default=True, metavar="SHARE", help="Least share of a patch that is tissue, 0–1."
)
@click.option(
    "--vote-method",
    default="mean",
    show_default=True,
    type=click.Choice(VOTE_METHODS),
    help="How a slide's patches are put together; wsikit vote has more to set.",
)
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@roi_options
@image_options
@assume_mpp_option
@executor_options
def command(
    slides: tuple[str, ...],
    manifest: str | None,
    out: str,
    model: str | None,
    request: CaptionRequest,
    min_tissue: float,
    vote_method: str,
    device: str,
    roi: str | None,
    roi_classes: tuple[str, ...],
    min_roi: float,
    image: ImageParameters,
    assume_mpp: float | None,
    scheduler: str,
    workers: int | None,
) -> int:
    """From slide files to a subtype, a map, captions and a report for each.

    SLIDE|DIR… are files and folders (searched with all below them). Results lie in OUT: index.html shows all slides,
    slides.csv has one row per slide, results/<slide_id>/ holds report.html, map.png, subtype.geojson (QuPath) and
    result.json, slides/ the stores, failures/ a traceback per failed slide. Run again, it does only what is missing.

    Exit status: 0 all done, 1 some slides failed, 2 the request itself is wrong.
    """
    from pathlib import Path

    from wsikit.batch.manifest import collect
    from wsikit.batch.records import taken_ids
    from wsikit.batch.rois import with_rois
    from wsikit.batch.runner import RunParameters
    from wsikit.errors import ModelError, RequestError
    from wsikit.models.config import DEFAULT_MODEL, find_model
    from wsikit.voting import VoteParameters

    model = model or DEFAULT_MODEL
    try:
        find_model(model)
    except ModelError as error:
        raise RequestError(str(error)) from error  # a wrong request: nothing was started
    entries = collect(slides, manifest=manifest, assume_mpp=assume_mpp, taken=taken_ids(Path(out)))
    entries = with_rois(entries, roi) if roi else entries
    parameters = RunParameters(
        model=model,
        captioner=request.captioner,
        captioner_options=request.options,
        caption_budget=request.budget,
        min_tissue=min_tissue,
        roi_classes=roi_classes,
        min_roi=min_roi,
        image=image,
        vote=VoteParameters(vote_method),
    )
    summary = run_in_terminal(entries, out, parameters, executor_of(scheduler, workers), device)
    return summary.exit_status


def run_in_terminal(
    entries: Sequence[SlideEntry], out: str, parameters: RunParameters, executor: Executor, device: str
) -> RunSummary:
    """Run a batch with progress and a closing table on the terminal."""
    from rich.console import Console

    from wsikit.batch.runner import run
    from wsikit.cli.progress import TerminalProgress
    from wsikit.models.config import read_config

    console = Console()
    notice = read_config(parameters.model).notice
    console.print(f"[bold yellow]{notice}[/]")
    with TerminalProgress(console) as progress:
        progress.slides(len(entries))
        summary = run(
            entries,
            out,
            parameters=parameters,
            executor=executor,
            device=device,
            progress=progress,
            on_slide=lambda row: _tell(progress, console, row),
        )
    _close(console, summary, out)
    return summary


def _tell(progress: TerminalProgress, console: Console, row: SlideRow) -> None:
    from rich.markup import escape

    from wsikit.batch.records import DONE

    progress.slide_done()
    if row.status != DONE:
        console.print(f"[red]✗[/] [bold]{escape(row.slide_id)}[/]  {escape(row.error or row.status)}", highlight=False)
        return
    if row.subtype is None:
        verdict = f"no subtype: {row.reason}"
    else:
        verdict = f"{row.subtype}  p={row.probability[row.subtype]:.2f}  margin {row.margin:.2f}"
    facts = (
        f"{row.n_patches} patches, {row.tissue_mm2:.3g} mm², {row.mpp_x:.4g} µm/px ({row.mpp_source}), "
        f"{row.seconds:.0f} s"
    )
    console.print(f"[green]✓[/] [bold]{escape(row.slide_id)}[/]  {escape(verdict)}", highlight=False)
    console.print(f"    [dim]{escape(facts)}[/]", highlight=False)


def _close(console: Console, summary: RunSummary, out: str) -> None:
    from pathlib import Path

    from wsikit.batch.records import DONE

    done = sum(row.status == DONE for row in summary.rows)
    page = Path(out) / "index.html"
    console.print(f"{done} of {len(summary.rows)} slides done. All of them: {page}", highlight=False)
    if done:
        console.print(f"Maps and reports: {Path(out) / 'results'}/<slide_id>/map.png, report.html", highlight=False)
    if summary.failed:
        console.print(
            f"Tracebacks of the {len(summary.failed)} failed: {Path(out) / 'failures'}. "
            "Mend the cause and run the same command again: finished slides are kept.",
            highlight=False,
        )
