"""`wsikit phantom`: make synthetic slides with ground truth."""

from __future__ import annotations

from pathlib import Path

import click


class _Size(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    name = "WxH"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        width, cross, height = str(value).lower().partition("x")
        if not (cross and width.isdigit() and height.isdigit() and int(width) and int(height)):
            self.fail(f"{value!r} is not a size; write it as WIDTHxHEIGHT in pixels, e.g. 4096x4096", param, ctx)
        return int(width), int(height)


@click.command(short_help="Make synthetic slides with ground truth.")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--size", type=_Size(), default="4096x4096", show_default=True, help="Width x height of level 0, px.")
@click.option("--mpp", type=float, default=0.5, show_default=True, help="Pixel size, µm per pixel (0.2 to 1.05).")
@click.option(
    "--subtype", type=click.Choice(["UD", "PD", "D", "GNB-I"]), default="PD", show_default=True,
    help="Undifferentiated, poorly differentiated, differentiating; ganglioneuroblastoma, intermixed.",
)  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the (first) slide.")
@click.option(
    "--count", type=click.IntRange(min=1), default=1, show_default=True,
    help="Number of slides; with more than one, OUT is a folder and seeds are consecutive.",
)  # fmt: skip
@click.option("--tissue", "tissue_fraction", type=click.FloatRange(0, 1), default=0.6, show_default=True,
              help="Fraction of the slide that is tissue.")  # fmt: skip
@click.option("--artefacts/--no-artefacts", default=True, show_default=True, help="Pen, folds, out-of-focus patches.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
def command(
    out: Path,
    size: tuple[int, int],
    mpp: float,
    subtype: str,
    seed: int,
    count: int,
    tissue_fraction: float,
    artefacts: bool,
    workers: int,
) -> None:
    """Make synthetic neuroblastoma slides at OUT, each with its ground truth next to it.

    OUT is the TIFF to write, or a folder (if it has no .tif or .tiff ending, or with --count). The truth is
    NAME.truth.json, NAME.truth.npz and NAME.truth.csv. Nothing in these slides is tissue.
    """
    from wsikit.phantom.slide import make_phantom
    from wsikit.phantom.truth import truth_paths

    is_file = out.suffix.lower() in (".tif", ".tiff")
    if count > 1 and is_file:
        raise click.UsageError(f"{out} is one file, but {count} slides are requested: give a folder")
    for number in range(seed, seed + count):
        path = out if is_file else out / f"phantom_{subtype}_{number}.tiff"
        with click.progressbar(length=1, label=path.name, show_pos=False) as bar:

            def show(done: int, total: int, bar: object = bar) -> None:
                bar.length = total  # type: ignore[attr-defined]
                bar.update(1)  # type: ignore[attr-defined]

            truth = make_phantom(
                path, size_px=size, mpp=mpp, subtype=subtype, seed=number, tissue_fraction=tissue_fraction,
                artefacts=artefacts, workers=workers, progress=show,
            )  # fmt: skip
        facts = truth.summary()
        mix = f"{facts['diff_fraction']:.1%} maturing cells, {facts['neuropil_fraction']:.0%} neuropil, "
        mix += f"{facts['schwannian_fraction']:.0%} Schwannian stroma"
        patches = ", ".join(f"{n} {name}" for name, n in facts["tissue_patches"].items())
        click.echo(
            f"{path}: {size[0]} × {size[1]} px at {mpp:g} µm/px, {facts['tissue_mm2']:.2f} mm² tissue, "
            f"subtype {subtype} ({mix})"
        )
        click.echo(f"  patches with tissue: {patches}; truth in {truth_paths(path)[0].name}")
    click.echo("Synthetic images, not tissue: for testing and demonstration only.")
