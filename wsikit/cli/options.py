"""Options that several verbs share. Heavy packages are imported only when an option is used."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from wsikit.executor import Executor

F = TypeVar("F", bound=Callable[..., Any])


class _Mpp(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions of click only
    """A pixel size in µm: 0.25, 0,25, 250nm."""

    name = "µm/px"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from wsikit.lengths import parse_mpp

        try:
            return float(value)
        except ValueError:
            pass
        try:
            return parse_mpp(value)
        except ValueError as error:
            return self.fail(str(error), param, ctx)


MPP = _Mpp()


def slides_argument(function: F) -> F:
    return click.argument("slides", nargs=-1, type=click.Path(), metavar="SLIDE|DIR…")(function)


def stores_argument(function: F) -> F:
    return click.argument("stores", nargs=-1, required=True, type=click.Path(), metavar="STORE…")(function)


def assume_mpp_option(function: F) -> F:
    return click.option(
        "--assume-mpp",
        type=MPP,
        metavar="µm/px",
        help="Pixel size at level 0 for slides that state none: about 0.25 for a 40× scan, 0.5 for 20×. Recorded in "
        "every output.",
    )(function)


def scene_option(function: F) -> F:
    return click.option(
        "--scene",
        "--series",
        "scene",
        metavar="N|NAME",
        help="Which of several main images of a file is read, by number from 0 or by name (wsikit info lists them); "
        "default: the largest.",
    )(function)


def roi_options(function: F) -> F:
    """--roi, --roi-class, --min-roi and --frame."""
    function = frame_option(function)
    function = click.option(
        "--min-roi",
        default=0.5,
        show_default=True,
        metavar="FRACTION",
        help="Minimum fraction of a patch inside the regions, 0–1.",
    )(function)
    function = click.option(
        "--roi-class",
        "roi_classes",
        multiple=True,
        metavar="NAME",
        help="Classes of regions that are used; default: all.",
    )(function)
    return click.option(
        "--roi",
        type=click.Path(exists=True),
        metavar="GEOJSON|DIR",
        help="Use only patches inside these regions (GeoJSON of QuPath): a file, or a folder of <slide>.geojson.",
    )(function)


def frame_option(function: F) -> F:
    return click.option(
        "--frame",
        type=click.Choice(["auto", "level0", "bounds"]),
        default="auto",
        show_default=True,
        help="What coordinates of regions count from: the corner of level 0, or that of the slide's bounds (scanned "
        "area), as in QuPath; auto: as the file states, else bounds for files of QuPath.",
    )(function)


def grid_option(function: F) -> F:
    return click.option(
        "--grid", metavar="NAME", help="Patch grid, e.g. 0.5um_224px; required if a store has several grids."
    )(function)


def image_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options of the stored pixels; the command receives them as one `image: ImageParameters`."""

    @functools.wraps(function)
    def command(
        *arguments: Any,
        pixels: str,
        regions: str,
        levels: str | None,
        codec: str,
        profile: str,
        keep_label: bool,
        ngff: str,
        jpeg_name: str,
        **others: Any,
    ) -> Any:
        from typing import cast

        from wsikit.tiling.plan import ImageParameters

        image = ImageParameters(
            pixels=cast(Any, pixels),
            regions=cast(Any, regions),
            levels=_numbers(levels),
            codec=cast(Any, codec),
            profile=cast(Any, profile),
            keep_label=keep_label,
            ngff=cast(Any, ngff),
            jpeg_name=cast(Any, jpeg_name),
        )
        return function(*arguments, image=image, **others)

    for option in reversed(
        (
            click.option(
                "--pixels",
                type=click.Choice(["keep", "none"]),
                default="keep",
                show_default=True,
                help="none: the store refers to the slide file instead of holding its pixels.",
            ),
            click.option(
                "--regions",
                type=click.Choice(["auto", "all", "tissue"]),
                default="auto",
                show_default=True,
                help="Tiles to store; auto: all tiles for lossless pass-through, otherwise only tiles with tissue.",
            ),
            click.option(
                "--levels", metavar="0,1,…", help="Levels of the slide to store; 0 is the finest; default: all."
            ),
            click.option(
                "--codec",
                type=click.Choice(["jpeg", "zstd"]),
                default="jpeg",
                show_default=True,
                help="Codec for tiles that must be re-encoded; zstd is lossless and several times as large.",
            ),
            click.option(
                "--profile",
                type=click.Choice(["native", "portable"]),
                default="native",
                show_default=True,
                help="portable: pixels that programs without a JPEG codec read; several times as large.",
            ),
            click.option(
                "--keep-label",
                is_flag=True,
                help="Also store the label and macro images, and pictures without a name. They can show a patient's "
                "name.",
            ),
            click.option(
                "--ngff",
                type=click.Choice(["0.4", "0.5", "0.6"]),
                default="0.5",
                show_default=True,
                help="Version of the OME-Zarr metadata; 0.4, for older programs such as QuPath, with "
                "--profile portable.",
            ),
            click.option(
                "--jpeg-name",
                type=click.Choice(["imagecodecs_jpeg", "jpeg"]),
                default="imagecodecs_jpeg",
                show_default=True,
                help="Name of the JPEG codec in the metadata; jpeg is proposed to the Zarr extensions registry.",
            ),
        )
    ):
        command = option(command)
    return command


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        from wsikit.errors import RequestError

        raise RequestError(f"--levels {text}: expected level numbers such as 0,1,2") from None


def executor_options(function: F) -> F:
    function = click.option(
        "--workers", type=int, metavar="N", help="Number of threads (or processes); default: one per CPU."
    )(function)
    return click.option(
        "--scheduler",
        default="threads",
        show_default=True,
        metavar="KIND|ADDRESS",
        help="threads, processes, or the address of a Dask cluster such as tcp://host:8786 (docs/cluster.md).",
    )(function)


def reporting_options(function: F) -> F:
    """--fail-fast and --log-json, of the verbs that run slides."""
    function = click.option(
        "--log-json",
        is_flag=True,
        help="Print the events of the run (as in OUT/log.jsonl) as JSON lines, and nothing else.",
    )(function)
    return click.option(
        "--fail-fast", is_flag=True, help="Stop at the first slide that fails; finished slides are kept."
    )(function)


def model_option(function: F) -> F:
    return click.option(
        "--model",
        metavar="NAME|DIR|zeroshot:FILE",
        help="Name of a packaged model, the folder of a model, or zeroshot:FILE, classes by words; default: the "
        "packaged demonstration model.",
    )(function)


def stain_option(function: F) -> F:
    return click.option(
        "--stain",
        metavar="METHOD[:REFERENCE]",
        help="Normalise the stain of patches before the model: macenko, macenko:REFERENCE or reinhard:REFERENCE, where "
        "REFERENCE is an image, a slide or a store with the target stain. Default: no normalisation.",
    )(function)


def concepts_option(function: F) -> F:
    """--set, as texts in `settings`; `wsikit.models.concept_setting.parse_settings` reads them."""
    return click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="AXIS=OPTION",
        help="Of a model with concepts: take this option for given in every patch, such as neuropil=absent. "
        "Repeatable; recorded with the predictions.",
    )(function)


def without_option(function: F) -> F:
    """--without, as texts; `wsikit.inference.left_out.parse_without` reads them."""
    return click.option(
        "--without",
        multiple=True,
        metavar="FACT[=SHARE]",
        help="Give patches no prediction where this measured share, or this map of words (localize:CONCEPT), is above "
        "SHARE, 0.5 by default: necrosis_share, localize:schwannian-stroma=0.7. Repeatable; recorded with the "
        "predictions.",
    )(function)


def engine_options(function: F) -> F:
    """--download, --engine and --precision, of the verbs that compute features."""
    function = click.option(
        "--precision",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        help="Numbers that an encoder computes in; auto: bfloat16 where the device has units for it.",
    )(function)
    function = click.option(
        "--engine",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", "torch", "compile", "onnx"]),
        help="How an encoder runs; auto: the fastest, measured once per encoder and machine.",
    )(function)
    return click.option(
        "--download",
        is_flag=True,
        help="Fetch an encoder's weights that are not here; else nothing touches the network.",
    )(function)


def executor_of(scheduler: str, workers: int | None) -> Executor:
    """The executor of the options --scheduler and --workers."""
    from wsikit.executor import Executor

    return Executor(scheduler, workers)
