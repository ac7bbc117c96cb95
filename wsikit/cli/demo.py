"""`wsikit demo`: the main job on a synthetic slide, without any download."""

from __future__ import annotations

import click


@click.command()
@click.option(
    "-o",
    "--out",
    default="demo",
    show_default=True,
    type=click.Path(file_okay=False),
    help="Folder for the slide and the results.",
)
@click.option("--seed", default=7, show_default=True, help="Seed of the synthetic slide.")
def command(out: str, seed: int) -> int:
    """Make a synthetic neuroblastoma slide, run the main job on it, and print where the map and the report are."""
    from pathlib import Path

    from wsikit.cli.console import make_console
    from wsikit.cli.run import run_in_terminal
    from wsikit.models.registry import describe_model
    from wsikit.phantom import make_phantom

    console = make_console()
    folder = Path(out)
    slide = folder / "slides" / f"phantom_PD_{seed}.tiff"
    if not slide.is_file():
        console.print("Making a synthetic slide of 3,584 × 3,072 px at 0.5 µm/px (1.8 × 1.5 mm) …", highlight=False)
        make_phantom(slide, size_px=(3584, 3072), mpp=0.5, subtype="PD", seed=seed)
    results = folder / "results"
    summary = run_in_terminal([str(slide)], str(results), notice=describe_model().notice)
    for row in summary.rows:
        pages = results / "results" / row.slide_id
        console.print(
            f"\nGround truth of this slide: poorly differentiated (PD). Result: {row.subtype or 'no subtype'}."
        )
        console.print(f"Map:    {(pages / 'map.png').resolve()}", highlight=False, soft_wrap=True)
        console.print(f"Report: {(pages / 'report.html').resolve()}", highlight=False, soft_wrap=True)
    return summary.exit_status
