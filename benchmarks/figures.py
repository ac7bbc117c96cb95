"""The figures of `run_all.py` that have an aim or another build to be measured against, and where they are.

A place is the path to a number in what a script found, with `/` between the keys; a number in a list is found by its
`slide`. `table` puts them side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One stated figure."""

    step: str
    title: str
    here: str
    """Place of this build's number."""
    base: str = ""
    """Place of the other build's number; empty: it has none."""
    aim: float | None = None
    less: bool = False
    """Whether less is better."""


_SLIDES = ("CMU-1-Small-Region.svs", "her2st_C2_pyramid.tif", "phantom_20480.tiff")


def _captions() -> Iterator[Figure]:
    for name in ("her2st slide", "her2st spots", "CMU-1", "IDC", "phantom 0.5", "phantom 0.25"):
        place = f"against base/{name}"
        yield Figure("captions", f"{name}: ms per patch", f"{place}/ms", f"{place}/ms_base", less=True)
        yield Figure("captions", f"{name}: times the base's speed", f"{place}/ratio_to_base", aim=5)
        yield Figure("captions", f"{name}: same words", f"{place}/same_words", aim=0.99)
        yield Figure("captions", f"{name}: gain of two threads", f"{place}/two_threads", f"{place}/two_threads_base")
    for scale in ("0.5", "0.25"):
        place, aim = f"nuclei/held_out at {scale}", 0.87 if scale == "0.5" else None
        yield Figure("captions", f"nuclei at {scale} µm/px: F1 within 3 µm", f"{place}/ours/f1_3um", aim=aim)
        yield Figure("captions", f"nuclei at {scale} µm/px: F1 of the watershed", f"{place}/distance_watershed/f1_3um")


def _reading() -> Iterator[Figure]:
    for slide in _SLIDES:
        for threads, aim in ((1, 0.9), (2, 0.85)):
            place, name = f"reading/{slide}/native_threads{threads}", f"{slide}, {threads} thread(s)"
            readers = place
            yield Figure(
                "reading", f"{name}: patches/s", f"{readers}/wsikit/patches_per_s", f"{readers}/base/patches_per_s"
            )
            limits = f"{readers}/wsikit/ratio_to_limit", f"{readers}/base/ratio_to_limit"
            yield Figure("reading", f"{name}: share of the decode limit", *limits, aim=aim)
            rivals = 1.3 if threads == 1 else None
            yield Figure("reading", f"{name}: against pyvips", f"{place}/wsikit_against_pyvips", aim=rivals)
        yield Figure(
            "reading",
            f"{slide}: per source pixel, twice coarser against native",
            f"reading/{slide}/mp_per_s_twice_coarser_against_native",
            aim=1.0,
        )


def _tiling() -> Iterator[Figure]:
    for slide in (*_SLIDES, "phantom_20480_3x3.tiff"):
        place, aim = f"slides/{slide}", 0.8 if slide.startswith("phantom") else None
        names = f"{place}/now/speed_against_copy", f"{place}/base/speed_against_copy"
        yield Figure("tiling", f"{slide}: against cp + fsync", *names, aim=aim)
    for kind in ("wall", "cpu"):
        names = f"fixed/now/intercept_{kind}_ms", f"fixed/base/intercept_{kind}_ms"
        yield Figure("tiling", f"fixed cost per slide, {kind} ms", *names, aim=8, less=True)


def _features() -> Iterator[Figure]:
    for model in ("vit_small_patch16_224", "resnet50"):
        place = f"share/{model}"
        yield Figure("features", f"{model}: share of its own speed, wall", f"{place}/share/wall_s", aim=0.95)
        yield Figure("features", f"{model}: the same, processor time", f"{place}/share/cpu_s", aim=0.95)
        yield Figure("features", f"{model}: patches/s", f"{place}/patches_per_s")
    for precision, aim in (("float32", None), ("auto", 1.5)):
        place, name = f"loops/times as fast/wsikit, {precision}", f"ResNet-18, {precision}: times the common loop"
        yield Figure("features", f"{name}, wall", f"{place}/wall_s", aim=aim)
        yield Figure("features", f"{name}, processor time", f"{place}/cpu_s", aim=aim)
    yield Figure(
        "features", "median cosine to the common loop's features", "loops/median cosine of features", aim=0.999
    )
    for number, patches in ((0, "few patches"), (1, "eight times as many")):
        yield Figure("features", f"peak memory, {patches}, MB", f"memory/{number}/peak_mb", less=True)


FIGURES: tuple[Figure, ...] = (
    *(
        Figure(
            "first_result",
            f"her2st: {kind} of the first run, s",
            f"slides/her2st_C2_pyramid.tif/this/{kind}_s",
            f"slides/her2st_C2_pyramid.tif/base/{kind}_s",
            less=True,
        )
        for kind in ("wall", "cpu")
    ),
    Figure("first_result", "her2st: times the base's speed", "slides/her2st_C2_pyramid.tif/wall against base", aim=3),
    Figure("finished", "finished slide, wall s", "one slide/wall_s", "one slide, base/wall_s", less=True),
    Figure(
        "finished", "the same, share of import torch", "one slide, share of import torch/wall_s", aim=0.6, less=True
    ),
    Figure("finished", "each further slide, ms", "per slide, ms/wall_s", aim=20, less=True),
    *_captions(),
    *_reading(),
    *_tiling(),
    *_features(),
    *(
        Figure(
            "memory",
            f"tiling {size} gigapixels: MB beyond imports",
            f"{number}/now/beyond_imports_mb",
            f"{number}/base/beyond_imports_mb",
            aim=250,
            less=True,
        )
        for number, size in enumerate((0.3, 1, 3, 10))
    ),
    *(
        Figure(
            "votes",
            f"10⁶ patches, {kind}: {step}, s",
            f"{kind}/new, s/{step}",
            f"{kind}/base, s/{step}",
            aim=aim,
            less=True,
        )
        for kind, step, aim in (
            ("regions", "total", 1.0),
            ("speckled", "total", 1.5),
            ("read", "all", 0.7),
            ("report", "report", None),
            ("outputs", "total", 1.0),
        )
    ),
)


def find(found: Any, place: str) -> float | None:
    """The number at a place; None if there is none."""
    for key in place.split("/"):
        if isinstance(found, list):
            named = [one for one in found if isinstance(one, dict) and one.get("slide") == key]
            found = named[0] if named else found[int(key)] if key.isdigit() and int(key) < len(found) else None
        else:
            found = found.get(key) if isinstance(found, dict) else None
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else None


def table(record: dict[str, Any], figures: Sequence[Figure] = FIGURES) -> list[tuple[str, ...]]:
    """Rows of figure, base, here, aim and whether it is reached, of those that the record holds; the first is the head.

    Examples
    --------
    >>> rows = table({"x": {"found": {"a": 2, "b": 6}}}, [Figure("x", "seconds", "a", "b", aim=3, less=True)])
    >>> rows[1]
    ('x', 'seconds', '6', '2', '≤ 3', 'yes')
    """
    rows: list[tuple[str, ...]] = [("script", "figure", "base", "here", "aim", "reached")]
    for figure in figures:
        found = record.get(figure.step, {}).get("found")
        here = find(found, figure.here)
        if here is None:
            continue
        base = find(found, figure.base) if figure.base else None
        aim = "" if figure.aim is None else f"{'≤' if figure.less else '≥'} {figure.aim:g}"
        reached = (
            "" if figure.aim is None else "yes" if (here <= figure.aim) is figure.less or here == figure.aim else "NO"
        )
        rows.append((figure.step, figure.title, "" if base is None else f"{base:.3g}", f"{here:.3g}", aim, reached))
    return rows
