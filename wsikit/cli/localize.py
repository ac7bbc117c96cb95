"""`wsikit localize`: maps of what texts say, for each store."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsikit.cli.options import grid_option

if TYPE_CHECKING:
    from rich.console import Console

    from wsikit.inference.localize import ConceptMap
    from wsikit.progress import Progress


COHORT = "cohort"


def _list(ctx: click.Context, option: click.Parameter, wanted: bool) -> None:
    """Callback of --list."""
    if not wanted or ctx.resilient_parsing:
        return
    from wsikit.encoders.concepts import CONCEPTS

    for concept in CONCEPTS.values():
        click.echo(f"{concept.key:28} {'; '.join(concept.synonyms)}")
    ctx.exit()


class _Threshold(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A number, or the word cohort."""

    name = "threshold"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value == COHORT:
            return COHORT
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r}: expected a number or {COHORT}", param, ctx)


@click.command()
@click.argument("words", nargs=-1, required=True, metavar="STORE|RUN… CONCEPT…")
@click.option("--against", multiple=True, metavar="TEXT", help="A competing concept, instead of those of the lexicon.")
@click.option(
    "--negation/--no-negation",
    default=None,
    help='Whether "no CONCEPT" competes, too; default: as the encoder was trained.',
)
@click.option("--encoder", metavar="NAME", help="Encoder of images and texts; default: the packaged one.")
@click.option(
    "--synonyms",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Concepts with their synonyms, which extend the lexicon: JSON, YAML or CSV.",
)
@click.option("--template", "templates", multiple=True, metavar="TEXT", help='Such as "an H&E image of {}"; several.')
@click.option("--sigma", type=float, default=0.0, show_default=True, metavar="CELLS", help="Smoothing; 0: none.")
@click.option(
    "--threshold",
    type=_Threshold(),
    default=0.5,
    show_default=True,
    metavar="P|cohort",
    help="Of regions, and of the area. cohort: from the patches of all STOREs together, without labels; they should be "
    "slides with and without CONCEPT.",
)
@click.option("--coarse", metavar="GRID", help="A second, coarser patch grid whose map is joined.")
@click.option("--coarse-weight", type=float, default=0.5, show_default=True, metavar="W", help="Its weight, 0–1.")
@click.option(
    "--similarity",
    type=click.Choice(["cosine", "dot"]),
    default="cosine",
    show_default=True,
    help="dot: as the published code of AFLoc.",
)
@click.option(
    "--normalise",
    type=click.Choice(["softmax", "none", "quantile", "minmax"]),
    default="softmax",
    show_default=True,
    help="softmax: against competitors. quantile: in a cohort (--reference). minmax: within the slide, for comparisons "
    "only.",
)
@click.option("--logit-scale", type=float, metavar="X", help="Factor before the softmax; default: the encoder's.")
@click.option("--reference", type=click.Path(dir_okay=False), metavar="JSON", help="quantile: quantiles of a cohort.")
@click.option("--top", type=click.IntRange(0), default=3, show_default=True, metavar="K", help="Patches to list.")
@click.option(
    "-o",
    "--out",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Also write each map as PNG and GeoJSON regions, and all of a slide as OME-Zarr, into DIR/SLIDE.",
)
@grid_option
@click.option("--device", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]))
@click.option("--download", is_flag=True, help="Fetch an encoder that is not here from the hub.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per store on standard output.")
@click.option("--list", is_flag=True, is_eager=True, expose_value=False, callback=_list, help="List the lexicon.")
def command(words: tuple[str, ...], out: str | None, as_json: bool, templates: tuple[str, ...], **settings: Any) -> int:
    """Map where on the slides of STORE…, or of RUN, the output folder of wsikit run, each CONCEPT is: concepts of the
    lexicon (--list), or any text.

    A patch's value is the probability that CONCEPT fits it better than competing texts do: column localize_<concept>
    of the patch table, for report, viewer and wsikit export. The presence score says how surely a concept is anywhere
    on a slide. A negated text ("no necrosis") competes, and is never looked for.

    \b
    wsikit localize out neuropil necrosis -o maps
    wsikit localize a.zarr "hyaline cartilage" --against bone --against collagen
    """
    from wsikit.cli.console import make_console
    from wsikit.cli.progress import TerminalProgress
    from wsikit.cli.stores import for_each_store
    from wsikit.encoders.device import check_device
    from wsikit.inference.localize import localize

    stores, concepts = split_words(words)
    check_device(settings["device"])
    if templates:
        settings["templates"] = templates
    said: set[str] = set()
    console = make_console()
    with TerminalProgress(make_console(stderr=True) if as_json else console) as progress:
        if settings["threshold"] == COHORT:
            settings["threshold"] = _of_cohort(stores, concepts, progress, settings)

        def find(store: str) -> str:
            maps = localize(store, concepts, progress=progress, **settings)
            for notice in {found.notice for found in maps if found.notice} - said:
                said.add(notice)
                click.echo(notice, err=True)
            if out is not None:
                _write(store, maps, Path(out), settings["grid"])
            if as_json:
                _print_json(store, maps)
            else:
                _show(console, store, maps)
            return ""

        return for_each_store(stores, find)


def _of_cohort(
    stores: list[str], concepts: list[str], progress: Progress, settings: dict[str, Any]
) -> dict[str, float]:
    """A threshold per concept from all stores; said on standard error."""
    from wsikit.errors import RequestError
    from wsikit.inference.cohort import cohort_thresholds

    for name, usual in {"normalise": "softmax", "sigma": 0.0, "coarse": None}.items():
        if settings[name] != usual:
            raise RequestError(
                f"--threshold {COHORT} is for maps by softmax of one grid without smoothing; leave out --{name}"
            )
    names = ("against", "negation", "encoder", "synonyms", "templates", "similarity", "logit_scale", "grid", "device")
    same = {name: settings[name] for name in (*names, "download") if name in settings}
    found = cohort_thresholds(stores, concepts, progress=progress, **same)
    for key, threshold in found.items():
        click.echo(
            f"{key}: threshold {threshold:.3g}, from {len(stores)} slide{'' if len(stores) == 1 else 's'}", err=True
        )
    return found


def split_words(words: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The stores, which come first, and the concepts. RequestError without one of either."""
    from wsikit.errors import RequestError

    is_place = [_is_place(word) for word in words]
    count = is_place.index(False) if False in is_place else len(words)
    if count == 0 and Path(words[0]).is_file():
        raise RequestError(
            f"{words[0]}: a file, no slide store; wsikit tile {words[0]} -o {Path(words[0]).stem}.zarr makes it one"
        )
    if count == 0:
        raise RequestError(
            f"{words[0]}: no slide store; give stores (….zarr) or the folder of a run first, then what to look for"
        )
    if count == len(words):
        raise RequestError(
            'nothing to look for: give concepts after the stores, such as neuropil or "Schwannian stroma"'
        )
    if any(is_place[count:]):
        late = words[is_place.index(True, count)]
        raise RequestError(f"{late}: a store after the concept {words[count]!r}; give all stores first")
    stores = [store for word in words[:count] for store in _expanded(word)]
    return list(dict.fromkeys(stores)), list(words[count:])


def _is_place(word: str) -> bool:
    """Whether a word is a store or the folder of a run, not a text."""
    folder = Path(word)
    named = word.rstrip("/\\").endswith(".zarr") or "://" in word
    return named or (folder / "zarr.json").is_file() or (folder / "run.json").is_file()


def _expanded(word: str) -> list[str]:
    """The stores of a run, or the word itself."""
    from wsikit.cli.stores import stores_at
    from wsikit.errors import RequestError

    if not (Path(word) / "run.json").is_file():
        return [word]
    found = [str(store) for store in stores_at(word)]
    if not found:
        raise RequestError(f"{word}: the folder of a run without a complete slide store in {Path(word) / 'slides'}")
    return found


def _write(store: str, maps: tuple[ConceptMap, ...], out: Path, grid: str | None) -> None:
    """The files of a slide's maps."""
    from wsikit.results.export import export
    from wsikit.slides.store import open_store

    opened = open_store(store)
    folder = out / opened.slide_id
    folder.mkdir(parents=True, exist_ok=True)
    for found in maps:
        png, regions = folder / f"{found.column}.png", folder / f"{found.column}.geojson"
        export(opened, "png", png, grid=grid, column=found.column)
        export(opened, "geojson", regions, grid=grid, column=found.column, threshold=found.threshold, on_note=_note)
    export(opened, "ngff-labels", folder / "maps.zarr", grid=grid)
    click.echo(f"{folder}: {len(maps)} map{'' if len(maps) == 1 else 's'} (PNG, GeoJSON, OME-Zarr)", err=True)


def _show(console: Console, store: str, maps: tuple[ConceptMap, ...]) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print(store, highlight=False, markup=False)
    table = Table(box=None, pad_edge=False)
    for name in ("concept", "presence", "area mm²", "patches"):
        table.add_column(name, justify="left" if name == "concept" else "right")
    for found in maps:
        presence = "–" if found.presence is None else f"{found.presence:.2f}"
        if found.presence is None and found.ood_share is not None and found.unit == "probability" and found.patches:
            presence = "not stated"
        table.add_row(Text(found.title), presence, f"{found.area_mm2:.3g}", str(found.n_above))
    console.print(table)
    for found in maps:
        if found.against:
            against = f"  {found.title} compared with: {'; '.join(found.against)}"
            console.print(against, highlight=False, markup=False, no_wrap=True, overflow="ellipsis")
    for found in maps:
        for patch in found.patches:
            caption = f": {patch.caption}" if patch.caption else ""
            line = f"  {found.title} {patch.value:.2f} at x={patch.x}, y={patch.y}{caption}"
            console.print(line, highlight=False, markup=False, no_wrap=True, overflow="ellipsis")


def _print_json(store: str, maps: tuple[ConceptMap, ...]) -> None:
    import json
    from dataclasses import asdict

    click.echo(json.dumps({"store": store, "maps": [asdict(found) for found in maps]}, ensure_ascii=False))


def _note(text: str) -> None:
    click.echo(f"note: {text}", err=True)
