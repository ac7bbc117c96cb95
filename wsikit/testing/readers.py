"""What a reader must do, as checks. An entry point of the group `wsikit.readers` is a class with this contract:

    MySlide(path: str, *, mpp=None, mpp_source="option")     opens the file; a slide as `wsikit.slides.Slide` states
    MySlide.reads(path: str, head: bytes) -> bool             static or class method

It is a subclass of `wsikit.slides.BaseSlide` that builds a `SlideInfo` and implements `_read_level` and `close`, or a
subclass of `wsikit.slides.tile_reader.TiledFileSlide` that implements `tile_px` and `_decode_tile`. `reader`, and so
`info.reader`, is the name of the entry point. A reader with `has_scenes = True` also takes `scene=…`, the number or
name of one of several main images, and raises RequestError if there is no such scene. `reads` is called for files that
no built-in reader opens, with the file's first 132 bytes (none for a folder); it must be quick and must not raise.
Errors are those of `wsikit.errors`.
"""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from wsikit.errors import RequestError, ScaleError, WsikitError
from wsikit.slides.encoded_tiles import EncodedTiles
from wsikit.slides.region import plan_region, resample
from wsikit.slides.tile_cache import DecodedTiles
from wsikit.slides.types import WHITE, Pixels, Slide, SlideInfo

_SIDE = 300
"""Largest side of a region that is compared, px."""

_HEAD_BYTES = 132

Box = tuple[int, int, int, int]


def check_reader(reader: Callable[..., Slide], path: str | os.PathLike[str]) -> None:
    """Check that `reader` opens the slide at `path` and keeps the contract of `wsikit.slides.Slide`.

    Checked are: the facts in `info`; the pixel size and its source; shape, dtype and ownership of pixels; that a
    region is the same alone, within a larger one, at its level and at its level's pixel size; white outside the
    slide; resampling; refusal of impossible requests; thumbnail, associated images, `repr` and the notebook card;
    access to tiles, if the reader has it; pickling; reading from several threads; closing; and `reads`, if the reader
    has it. That the pixels are the right ones is for the plug-in's own tests: here they are only compared with one
    another.

    Parameters
    ----------
    reader
        The class, or any callable with the same parameters: (path, mpp=…, mpp_source=…).
    path
        A slide that it opens, of at least 64 × 64 px. Only regions of 300 px are read, and the thumbnail.

    Raises
    ------
    AssertionError
        With the first requirement that is not met.

    >>> import os, tempfile
    >>> from PIL import Image
    >>> from wsikit.slides.formats.image import ImageSlide
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "noise.png")
    ...     Image.effect_noise((200, 150), 50).convert("RGB").save(path)
    ...     check_reader(ImageSlide, path)
    """
    name = os.fspath(path)
    with reader(name) as slide:
        _check_info(slide, name, reader)
        _check_levels(slide.info)
        _check_mpp(reader, name, slide)
        for level in range(len(slide.level_dimensions)):
            _check_pixels(slide, level)
        _check_white(slide)
        _check_scaled(slide)
        _check_refusals(slide)
        _check_other_images(slide)
        _check_tiles(slide)
        _check_pickling(slide)
        _check_threads(slide)
    _check_scenes(reader, name)
    _check_closed(reader, name)
    _check_reads(reader, name)


def _check_info(slide: Slide, path: str, reader: Callable[..., Slide]) -> None:
    info = slide.info
    _require(isinstance(info, SlideInfo), f"info is {type(info).__name__}, not SlideInfo")
    _require(info.path == slide.path == path, f"path is {slide.path!r}, opened was {path!r}")
    own = getattr(reader, "reader", info.reader)
    _require(bool(info.reader) and info.reader == own, f"info.reader is {info.reader!r}, the class states {own!r}")
    _require(bool(info.vendor), "info.vendor is empty")
    _require(info.kind in ("tiled", "plain", "store"), f"info.kind is {info.kind!r}, not tiled, plain or store")
    for name in ("dimensions", "level_dimensions", "level_downsamples", "mpp_source"):
        _require(getattr(slide, name) == getattr(info, name), f"{name} and info.{name} differ")
    try:
        json.dumps(info.to_json())
    except (TypeError, ValueError) as error:
        raise AssertionError(f"info.to_json() is not plain JSON: {error}") from error
    text = repr(slide)
    _require(os.path.basename(path) in text and "\n" not in text, f"repr is not one line with the file's name: {text}")


def _check_levels(info: SlideInfo) -> None:
    sizes, downsamples = info.level_dimensions, info.level_downsamples
    _require(len(sizes) >= 1, "there is no level")
    _require(len(sizes) == len(downsamples), f"{len(sizes)} level_dimensions, {len(downsamples)} level_downsamples")
    for size in (info.dimensions, *sizes):
        right = isinstance(size, tuple) and len(size) == 2 and all(type(px) is int and px > 0 for px in size)
        _require(right, f"{size!r} is not a width and a height: two positive int")
    for level, (size, downsample) in enumerate(zip(sizes, downsamples, strict=True)):
        for whole, px, ratio in zip(info.dimensions, size, downsample, strict=True):
            fits = ratio >= 1 and abs(px - whole / ratio) <= 1.01
            _require(fits, f"level {level}: {whole} px at downsample {ratio} are not {px} px")
    _require(list(downsamples) == sorted(downsamples), f"level_downsamples do not rise: {downsamples}")


def _check_mpp(reader: Callable[..., Slide], path: str, slide: Slide) -> None:
    _require(bool(slide.info.mpp_source), "info.mpp_source is empty")
    if slide.info.mpp is None:
        with _must_raise((ScaleError,), "slide.mpp without a known pixel size"):
            _ = slide.mpp
    else:
        _require(slide.mpp == slide.info.mpp, "mpp and info.mpp differ")
        _require(all(math.isfinite(side) and side > 0 for side in slide.mpp), f"mpp is {slide.mpp}")
        _require(slide.mpp_source != "unknown", "mpp is stated, but mpp_source is unknown")
    with reader(path, mpp=(0.4, 0.41), mpp_source="manifest") as given:
        found = (given.mpp, given.mpp_source)
        _require(found == ((0.4, 0.41), "manifest"), f"mpp=(0.4, 0.41) from the manifest was given, {found} is used")
        with pickle.loads(pickle.dumps(given)) as again:
            _require(again.mpp == given.mpp, "a given mpp is lost when the slide is pickled")
            _require(again.mpp_source == given.mpp_source, "mpp_source is lost when the slide is pickled")
    with _must_raise((RequestError,), "a given mpp of -1"):
        reader(path, mpp=-1.0).close()


def _check_pixels(slide: Slide, level: int) -> None:
    large = _middle(slide, level)
    x, y, width, height = large
    whole = _read(slide, level, large).copy()
    rng = np.random.default_rng(level)
    for _ in range(6):
        part_width, part_height = (int(rng.integers(1, side + 1)) for side in (width, height))
        left, top = int(rng.integers(0, width - part_width + 1)), int(rng.integers(0, height - part_height + 1))
        part = _read(slide, level, (x + left, y + top, part_width, part_height))
        expected = whole[top : top + part_height, left : left + part_width]
        same = np.array_equal(part, expected)
        _require(same, f"level {level}: a box has other pixels alone than within a larger box")
    part[:] = 0
    whole_again = _read(slide, level, large)
    _require(np.array_equal(whole_again, whole), f"level {level}: writing to pixels that were read changes the slide")
    downsample = slide.level_downsamples[level]
    at = slide.read_region(x * downsample[0], y * downsample[1], width, height, level=level)
    _require(np.array_equal(at, whole), f"level {level}: read_region(level={level}) differs from read_box")
    if slide.info.mpp is not None:
        mpp = (slide.mpp[0] * downsample[0], slide.mpp[1] * downsample[1])
        at = slide.read_region(x * downsample[0], y * downsample[1], width, height, mpp=mpp)
        _require(np.array_equal(at, whole), f"level {level}: read_region at the level's own mpp changes its pixels")


def _check_white(slide: Slide) -> None:
    for level, (width, height) in enumerate(slide.level_dimensions):
        outside = _read(slide, level, (width + 5, height + 7, 9, 8))
        _require((outside == WHITE).all(), f"level {level}: a box outside the level is not white")
        across, down = min(width, 20), min(height, 20)
        box = _read(slide, level, (width - across, height - down, across + 6, down + 4))
        beyond = (box[down:] == WHITE).all() and (box[:, across:] == WHITE).all()
        _require(bool(beyond), f"level {level}: right of and below the level it is not white")
        inside = _read(slide, level, (width - across, height - down, across, down))
        _require(np.array_equal(box[:down, :across], inside), f"level {level}: pixels move where a box reaches outside")
        box = _read(slide, level, (-3, -2, across + 3, down + 2))
        beyond = (box[:2] == WHITE).all() and (box[:, :3] == WHITE).all()
        _require(bool(beyond), f"level {level}: left of and above the level it is not white")
        inside = _read(slide, level, (0, 0, across, down))
        _require(np.array_equal(box[2:, 3:], inside), f"level {level}: pixels move where a box reaches outside")


def _check_scaled(slide: Slide) -> None:
    if slide.info.mpp is None:
        return
    x, y, width, height = _middle(slide, 0)
    downsample = slide.level_downsamples[0]
    corner = x * downsample[0], y * downsample[1]
    for factor in (1.37, 0.8):
        mpp = (slide.mpp[0] * downsample[0] * factor, slide.mpp[1] * downsample[1] * factor)
        size = max(1, int(width / factor / 2)), max(1, int(height / factor / 2))
        found = slide.read_region(*corner, *size, mpp=mpp)
        plan = plan_region(slide.level_downsamples, slide.mpp, *corner, *size, mpp=mpp, path=slide.path)
        expected = resample(_read(slide, plan.level, plan.box), plan.crop, plan.out)
        _require(found.shape == expected.shape, f"a region of {size} px has shape {found.shape}")
        differing = np.abs(found.astype(int) - expected).max()
        _require(differing <= 1, f"a region at {factor} times the slide's mpp is up to {differing} grey levels off")


def _check_refusals(slide: Slide) -> None:
    requests: list[tuple[str, dict[str, Any]]] = [
        ("a level that does not exist", {"level": len(slide.level_dimensions)}),
        ("level -1", {"level": -1}),
        ("both mpp and level", {"mpp": 1.0, "level": 0}),
        ("mpp=0", {"mpp": 0.0}),
        ("a region without width", {"width": 0}),
        ("a region at x=inf", {"x": math.inf}),
    ]
    for what, wrong in requests:
        # without a pixel size, any mpp is refused for that reason
        kinds = (RequestError, ScaleError) if slide.info.mpp is None else (RequestError,)
        with _must_raise(kinds, f"read_region with {what}"):
            slide.read_region(**{"x": 0, "y": 0, "width": 8, "height": 8, **wrong})


def _check_other_images(slide: Slide) -> None:
    width, height = slide.dimensions
    thumbnail = slide.thumbnail(64)
    _require_pixels(thumbnail, thumbnail.shape[1], thumbnail.shape[0], "the thumbnail")
    _require(max(thumbnail.shape[:2]) == min(64, max(slide.level_dimensions[0])), f"thumbnail(64): {thumbnail.shape}")
    ratio = thumbnail.shape[1] / thumbnail.shape[0] * height / width
    _require(abs(ratio - 1) < 0.1 or min(thumbnail.shape[:2]) < 16, f"thumbnail(64): {thumbnail.shape} is distorted")
    for name in slide.info.associated:
        image = slide.associated(name)
        _require_pixels(image, image.shape[1], image.shape[0], f"the associated image {name}")
    with _must_raise((RequestError,), "an associated image that is not listed"):
        slide.associated("no such image")
    card = getattr(slide, "_repr_html_", None)
    if card is not None:
        with _identifying_images_withheld(slide):
            _require(os.path.basename(slide.path) in card(), "the notebook card does not name the file")
            repr(slide)


def _check_tiles(slide: Slide) -> None:
    if not isinstance(slide, DecodedTiles):
        return
    for level, (level_width, level_height) in enumerate(slide.level_dimensions):
        width, height = slide.tile_px(level)
        last = (level_width - 1) // width, (level_height - 1) // height
        for column, row in {(0, 0), (last[0] // 2, last[1] // 2), last}:
            x, y = column * width, row * height
            across, down = min(width, level_width - x), min(height, level_height - y)
            tile = slide.tile(level, column, row)
            _require(not tile.flags.writeable, f"level {level}: a tile is shared, but not read-only")
            expected = _read(slide, level, (x, y, across, down))
            same = np.array_equal(tile[:down, :across], expected)
            _require(same, f"level {level}: tile {column}, {row} differs from the box that it covers")
        if isinstance(slide, EncodedTiles) and slide.tile_source(level) is not None:
            stored = slide.encoded_tile(level, 0, 0)
            _require(stored is None or len(stored) > 0, f"level {level}: encoded_tile gives no bytes")


def _check_pickling(slide: Slide) -> None:
    record = pickle.dumps(slide)
    _require(len(record) < 10_000, f"a pickled slide has {len(record)} bytes: it must reopen by its path")
    box = _middle(slide, 0)
    with pickle.loads(record) as again:
        again_info = again.info.to_json() | {"path": slide.info.path}
        _require(again_info == slide.info.to_json(), "a slide that was pickled has another info")
        _require(np.array_equal(_read(again, 0, box), _read(slide, 0, box)), "a pickled slide has other pixels")


def _check_threads(slide: Slide) -> None:
    boxes = []
    for level, (width, height) in enumerate(slide.level_dimensions):
        side = max(1, min(48, width // 2, height // 2))
        boxes += [
            (level, (int(x), int(y), side, side))
            for x in np.linspace(0, width - side, 4)
            for y in np.linspace(0, height - side, 4)
        ]
    alone = [slide.read_box(level, box) for level, box in boxes]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda at: slide.read_box(*at), boxes))
    same = all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
    _require(same, "regions read from four threads at once differ from regions read one after another")


def _check_scenes(reader: Callable[..., Slide], path: str) -> None:
    if not getattr(reader, "has_scenes", False):
        return
    with reader(path, scene=0) as slide, pickle.loads(pickle.dumps(slide)) as again:
        _require(again.info.scene == slide.info.scene, "the scene is lost when the slide is pickled")
        _require(again.dimensions == slide.dimensions, "a slide that was pickled has another scene")
    with _must_raise((RequestError,), "a scene that does not exist"):
        reader(path, scene=1_000_000).close()


def _check_closed(reader: Callable[..., Slide], path: str) -> None:
    slide = reader(path)
    box = _middle(slide, 0)
    pixels = _read(slide, 0, box)
    slide.close()
    slide.close()
    repr(slide)
    try:
        after = _read(slide, 0, box)
    except RequestError:
        return
    except WsikitError as error:
        raise AssertionError(f"reading a closed slide raises {type(error).__name__}, not RequestError") from error
    # a slide that opens its files as it needs them may be read again
    _require(np.array_equal(after, pixels), "a closed slide gives other pixels")


def _check_reads(reader: Callable[..., Slide], path: str) -> None:
    reads = getattr(reader, "reads", None)
    if reads is None:
        return
    head = b""
    if os.path.isfile(path):
        with open(path, "rb") as file:
            head = file.read(_HEAD_BYTES)
    _require(reads(path, head) is True, "reads(path, head) is not True for a slide that the reader opens")
    _require(reads(f"{path}.not-a-slide", b"This is not a slide.") is False, "reads() accepts a text file")


def _middle(slide: Slide, level: int) -> Box:
    """A box in the middle of `level`, px of the level."""
    level_width, level_height = slide.level_dimensions[level]
    width, height = min(_SIDE, level_width), min(_SIDE, level_height)
    return (level_width - width) // 2, (level_height - height) // 2, width, height


def _read(slide: Slide, level: int, box: Box) -> Pixels:
    pixels = slide.read_box(level, box)
    _require_pixels(pixels, box[2], box[3], f"read_box({level}, {box})")
    return pixels


def _require_pixels(pixels: Pixels, width: int, height: int, what: str) -> None:
    right = isinstance(pixels, np.ndarray) and pixels.dtype == np.uint8 and pixels.shape == (height, width, 3)
    found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
    _require(right, f"{what} is {found}, not uint8 ({height}, {width}, 3)")
    _require(pixels.flags.writeable or what.startswith("the "), f"{what} is read-only: it must be the caller's own")


def _require(met: bool, otherwise: str) -> None:
    if not met:
        raise AssertionError(otherwise)


@contextmanager
def _identifying_images_withheld(slide: Slide) -> Iterator[None]:
    """Within, reading an associated image fails: label and macro can show a name, and are shown only on request."""

    def withheld(name: str) -> Pixels:
        raise AssertionError(f"the notebook card or repr reads the associated image {name}, which can show a name")

    names = [name for name in ("associated", "_read_associated") if hasattr(slide, name)]
    for name in names:
        setattr(slide, name, withheld)
    try:
        yield
    finally:
        for name in names:
            delattr(slide, name)


@contextmanager
def _must_raise(kinds: tuple[type[Exception], ...], what: str) -> Iterator[None]:
    try:
        yield
    except kinds:
        return
    except Exception as error:
        raise AssertionError(f"{what} raises {type(error).__name__}, not {kinds[0].__name__}") from error
    raise AssertionError(f"{what} does not raise {kinds[0].__name__}")
