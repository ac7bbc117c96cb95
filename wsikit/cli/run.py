"""`wsikit run`: from slide files to subtypes, maps and reports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from wsikit.cli.captioner_options import captioner_options
from wsikit.cli.options import (
    assume_mpp_option,
    concepts_option,
    engine_options,
    executor_options,
    image_options,
    model_option,
    reporting_options,
    roi_options,
    scene_option,
    slides_argument,
    stain_option,
    without_option,
)
from wsikit.cli.vote import METHODS

VOTE_METHODS = tuple(method for method in METHODS if method != "threshold")
"""Those that need no further settings."""

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from wsikit.batch.records import SlideRow
    from wsikit.batch.run_result import RunResult
    from wsikit.batch.timing import RunTime
    from wsikit.cli.captioner_options import CaptionRequest
    from wsikit.cli.progress import TerminalProgress
    from wsikit.tiling.plan import ImageParameters
    from wsikit.tiling.roi import FrameChoice
    from wsikit.voting.parameters import VoteParameters


@click.command()
@slides_argument
@click.option(
    "--manifest",
    type=click.Path(exists=True, dir_okay=False),
    metavar="CSV",
    help="Table of slides with the column path and optionally slide_id, patient, scene, mpp (µm/px), roi (GeoJSON), "
    "reader and label.",
)
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="Folder for all results.")
@model_option
@captioner_options
@click.option(
    "--min-tissue", default=0.25, show_default=True, metavar="FRACTION", help="Minimum tissue fraction of a patch, 0–1."
)
@click.option(
    "--vote-method",
    type=click.Choice(VOTE_METHODS),
    help="How a slide's patch predictions are aggregated; default: as the model is made for, or mean. wsikit vote has "
    "more settings.",
)
@click.option(
    "--prior",
    default="auto",
    show_default=True,
    metavar="PRIOR",
    help="Class frequencies to correct to: training, balanced, or CLASS=FREQUENCY,…; auto: training, where recorded.",
)
@stain_option
@concepts_option
@without_option
@click.option(
    "--features",
    multiple=True,
    metavar="NAME",
    help="Also store the patches' features by this encoder, as wsikit features does; may be given again.",
)
@engine_options
@click.option("--only-failed", is_flag=True, help="Only slides that failed in earlier runs in OUT are run again.")
@reporting_options
@click.option("--dry-run", is_flag=True, help="Print the plan: what would be done, and why. Nothing is changed.")
@click.option(
    "--gpus",
    default=0,
    metavar="N",
    help="With --scheduler processes: how many of the workers hold one GPU each; models run on these.",
)
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@roi_options
@image_options
@assume_mpp_option
@scene_option
@executor_options
def command(
    slides: tuple[str, ...],
    manifest: str | None,
    out: str,
    model: str | None,
    request: CaptionRequest,
    min_tissue: float,
    vote_method: str | None,
    prior: str,
    stain: str | None,
    settings: tuple[str, ...],
    without: tuple[str, ...],
    features: tuple[str, ...],
    download: bool,
    engine: str,
    precision: str,
    only_failed: bool,
    fail_fast: bool,
    log_json: bool,
    dry_run: bool,
    device: str,
    roi: str | None,
    roi_classes: tuple[str, ...],
    min_roi: float,
    frame: FrameChoice,
    image: ImageParameters,
    assume_mpp: float | None,
    scene: str | None,
    scheduler: str,
    workers: int | None,
    gpus: int,
) -> int:
    """Run the whole pipeline on slide files: a subtype, a map, captions and a report for each.

    SLIDE|DIR… are files and folders (searched recursively). Results are written to OUT: index.html shows all slides,
    slides.csv has one row per slide, results/<slide_id>/ contains report.html, map.png, subtype.geojson (QuPath) and
    result.json, slides/ the stores, failures/ a traceback per failed slide. A second run does only what is missing.

    Exit status: 0 all slides are done, 1 some slides failed, 2 the request is wrong.
    """
    from wsikit.errors import ModelError, RequestError
    from wsikit.inference.left_out import parse_without
    from wsikit.models.concept_setting import parse_settings

    concepts = parse_settings(settings)
    try:
        described = _describe(model, prior, concepts)
    except ModelError as error:
        raise RequestError(str(error)) from error  # a wrong request: nothing has been started
    asked: dict[str, Any] = {
        "model": model,
        "mpp": assume_mpp,
        "scene": scene,
        "captioner": request.captioner,
        "captioner_options": request.options,
        "caption_budget": request.budget,
        "min_tissue": min_tissue,
        "roi": roi,
        "roi_classes": roi_classes,
        "min_roi": min_roi,
        "roi_frame": frame,
        "image": image,
        "stain": stain,
        "concepts": concepts,
        "without": parse_without(without),
        "features": features,
        "download": download,
        "features_engine": engine,
        "features_precision": precision,
        "vote": _vote(vote_method, prior, model),
        "device": device,
        "scheduler": scheduler,
        "workers": workers,
        "gpus": gpus,
    }
    from wsikit.batch.manifest import Manifest

    given: list[Any] = [*slides, *([Manifest(manifest)] if manifest else [])]
    if dry_run:
        from wsikit.batch.run import plan_run

        click.echo(str(plan_run(given, out, **asked)))
        return 0
    asked |= {"only_failed": only_failed, "fail_fast": fail_fast}
    return run_in_terminal(given, out, notice=described, log_json=log_json, **asked).exit_status


def _describe(model: str | None, prior: str, concepts: Mapping[str, str]) -> str:
    """The notice of a model with these concepts set, without loading it.

    Raises
    ------
    RequestError
        If its probabilities cannot be corrected to `prior`, or it has no such concepts.
    """
    from wsikit.models.lazy import LazyModel

    info = LazyModel.of(model).with_concepts(concepts).info
    if prior != "auto":
        from wsikit.voting.prior import ModelPrior, prior_shift

        prior_shift(prior, info.classes, ModelPrior(info.prior, info.balanced))
    return info.notice


def _vote(method: str | None, prior: str, model: str | None) -> str | VoteParameters | None:
    """The parameters of the vote; its method alone, or None, where all others are those of the model."""
    if prior == "auto":
        return method
    from dataclasses import replace

    from wsikit.models.config import DEFAULT_MODEL
    from wsikit.models.registry import describe_model
    from wsikit.voting.parameters import parameters_for

    return replace(parameters_for(method, describe_model(model or DEFAULT_MODEL).vote), prior=prior)


def run_in_terminal(slides: list[Any], out: str, *, notice: str, log_json: bool = False, **settings: Any) -> RunResult:
    """Run with progress and a summary on the terminal. `settings` are those of `wsikit.run`.

    `log_json`: the events of the run as JSON lines on standard output, and nothing else.
    """
    from wsikit.batch import stalled
    from wsikit.batch.run import run
    from wsikit.cli.guard import is_started_again

    if is_started_again():
        stalled.end_process_when_stalled()
    if log_json:
        return run(slides, out, on_event=_print_event, **settings)
    from wsikit.cli.console import make_console, one_line
    from wsikit.cli.progress import TerminalProgress

    console = make_console()
    console.print(f"[bold yellow]{notice}[/]")
    with TerminalProgress(console) as progress:
        result = run(
            slides,
            out,
            progress=progress,
            on_slide=lambda row: _print_row(progress, console, row),
            on_note=lambda note: console.print(f"note: {one_line(note)}", highlight=False, markup=False),
            **settings,
        )
    _print_summary(console, result, out)
    return result


def _print_event(event: Mapping[str, Any]) -> None:
    import json

    click.echo(json.dumps(event, ensure_ascii=False))


def _print_row(progress: TerminalProgress, console: Console, row: SlideRow) -> None:
    from rich.markup import escape

    from wsikit.batch.records import DONE
    from wsikit.cli.console import one_line

    progress.slide_done()
    if row.status != DONE:
        console.print(
            f"[red]✗[/] [bold]{escape(row.slide_id)}[/]  {escape(one_line(row.error or row.status))}", highlight=False
        )
        return
    facts = (
        f"{row.n_patches} patches, {row.tissue_mm2:.3g} mm², {row.mpp_x:.4g} µm/px ({row.mpp_source}), "
        f"{row.seconds:.0f} s"
    )
    console.print(f"[green]✓[/] [bold]{escape(row.slide_id)}[/]  {escape(row.summary())}", highlight=False)
    console.print(f"    [dim]{escape(facts)}[/]", highlight=False)
    for note in row.notes:
        console.print(f"    note: {escape(one_line(note))}", highlight=False)


def _print_summary(console: Console, summary: RunResult, out: str) -> None:
    from pathlib import Path

    from wsikit.batch.records import DONE

    finished = [row.slide_id for row in summary.rows if row.status == DONE]
    done = len(finished)
    page = Path(out) / "index.html"
    if summary.changes:
        changes = "; ".join(summary.changes)
        console.print(f"Changed since the previous run: {changes}", highlight=False, markup=False)
    console.print(f"{done} of {len(summary.rows)} slides done. All of them: {page}", highlight=False)
    if done:
        of = finished[0] if done == 1 else "<slide_id>"
        console.print(
            f"Map and report: {Path(out) / 'results' / of}/map.png, report.html", highlight=False, markup=False
        )
    if summary.failed:
        console.print(
            f"Tracebacks of the {len(summary.failed)} failed: {Path(out) / 'failures'}. Correct the cause and run the "
            f"same command again, or wsikit retry {out}: finished slides are kept.",
            highlight=False,
        )
    if summary.time is not None and summary.time.stages:
        _print_time(console, summary.time)


def _print_time(console: Console, time: RunTime) -> None:
    """The line that says what bound the run, and the table of its stages."""
    from rich.table import Table

    line = time.bound_by()
    console.print(f"{line[0].upper()}{line[1:]}.", highlight=False)
    if not console.is_terminal:
        parts = (f"{one.stage} {one.seconds:.1f} s" for one in time.stages)
        console.print(f"Time per stage: {', '.join(parts)}.", highlight=False)
        return
    table = Table("stage", "on", box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("slides", "time, s", "of the run", "rate"):
        table.add_column(title, justify="right")
    for one in time.stages:
        share = f"{100 * one.seconds / time.seconds:.0f} %" if time.seconds else ""
        table.add_row(one.stage, one.where, str(one.slides), f"{one.seconds:.1f}", share, one.rate())
    console.print(table)
