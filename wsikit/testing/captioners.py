"""What a captioner must do, as checks. An entry point of the group `wsikit.captioners` is a callable

    make(argument: str | None, *, device: str, **options) -> Captioner

`argument` is what follows `#` in the captioner's name, or None; `options` are the fields of
`wsikit.captions.CaptionerOptions` that were set. The captioner's `name` is the name of the entry point. Import heavy
libraries within the callable, so that the plug-in costs nothing where it is not used.
"""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Caption, Captioner, FitsToSlide, batch_of, in_parallel
from wsikit.errors import RequestError

Patches = npt.NDArray[np.uint8]

_HAEMATOXYLIN, _EOSIN = np.array([0.62, 0.70, 0.32]), np.array([0.12, 0.80, 0.38])
_GLASS = 245.0  # grey value


def check_captioner(captioner: Captioner, *, mpp: float = 0.5, images: Patches | None = None) -> None:
    """Check that `captioner` keeps the contract of `wsikit.captions.Captioner`.

    Checked are: its attributes; a fingerprint that is JSON-ready and stable; one caption per patch, in order, each
    independent of the other patches in the batch and equal when asked again; facts that are declared and finite;
    inputs that are left unchanged, or refused if they are no patches; pickling and concurrent calls, if it is
    `parallel`. A captioner that fits to a slide (`FitsToSlide`) is checked before and after the fit.

    Parameters
    ----------
    captioner
        The captioner to check. It is asked several times about each patch.
    mpp
        Pixel size of the patches, µm per pixel.
    images
        Patches to describe, uint8 (B, H, W, 3), B ≥ 2. Default: eight of 64 px, among them black, white and noise.

    Raises
    ------
    AssertionError
        With the first requirement that is not met.

    Examples
    --------
    >>> from wsikit.captions import load_captioner
    >>> check_captioner(load_captioner("morphometry"))
    """
    patches = sample_patches() if images is None else images
    _require(isinstance(captioner, Captioner), "a captioner has name, fact_names, fingerprint() and caption()")
    _check_attributes(captioner)
    _check_fingerprint(captioner)
    if isinstance(captioner, FitsToSlide):
        captioner = _check_fit(captioner, patches, mpp)
    found = _check_captions(captioner, patches, mpp)
    _check_independence(captioner, patches, mpp, found)
    _check_refusals(captioner, patches, mpp)
    if in_parallel(captioner):
        _check_parallel(captioner, patches, mpp, found)


def sample_patches(patch_px: int = 64) -> Patches:
    """Eight different patches, uint8 (8, patch_px, patch_px, 3): white, black, grey, noise, and stained tissue with
    nuclei of 8 µm at 0.5 µm/px.

    Examples
    --------
    >>> sample_patches().shape
    (8, 64, 64, 3)
    """
    rng = np.random.default_rng(0)
    shape = (patch_px, patch_px, 3)
    plain = [np.full(shape, value, np.uint8) for value in (_GLASS, 0, 128)]
    noise = rng.integers(0, 256, shape, dtype=np.uint8)
    return np.stack([*plain, noise, *(_tissue(rng, patch_px, n_nuclei) for n_nuclei in (0, 4, 12, 30))])


def _tissue(rng: np.random.Generator, patch_px: int, n_nuclei: int) -> Patches:
    y, x = np.mgrid[:patch_px, :patch_px]
    nuclei = np.zeros((patch_px, patch_px))
    for row, column in rng.integers(0, patch_px, (n_nuclei, 2)):
        nuclei = np.maximum(nuclei, np.hypot(y - row, x - column) < 8)
    matrix = rng.uniform(0.2, 0.3, nuclei.shape) * (1 - nuclei)
    density = nuclei[..., None] * _HAEMATOXYLIN + matrix[..., None] * _EOSIN
    return np.asarray(np.rint(_GLASS * 10.0**-density), np.uint8)


def _check_attributes(captioner: Captioner) -> None:
    name, facts = captioner.name, captioner.fact_names
    _require(isinstance(name, str) and bool(name.strip()), f"name is {name!r}, expected a word")
    _require(
        isinstance(facts, tuple) and all(isinstance(fact, str) and fact for fact in facts),
        f"fact_names is {facts!r}, expected a tuple of names",
    )
    _require(len(set(facts)) == len(facts), f"fact_names has a name twice: {facts}")
    parallel = getattr(captioner, "parallel", False)
    _require(isinstance(parallel, bool), f"parallel is {parallel!r}, expected True or False")
    batch = getattr(captioner, "batch", 1)
    _require(isinstance(batch, int) and batch >= 1, f"batch is {batch!r}, expected an integer of 1 or more")
    _require(batch_of(captioner) >= 1, "batch size below 1")


def _check_fingerprint(captioner: Captioner) -> None:
    first = captioner.fingerprint()
    try:
        read_back = json.loads(json.dumps(first, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"the fingerprint cannot be written as JSON ({error}): {first!r}") from error
    _require(isinstance(first, dict), f"the fingerprint is a {type(first).__name__}, expected a dict")
    _require(read_back == first, f"the fingerprint changes when written as JSON: {first!r} becomes {read_back!r}")
    _require(bool(first), "the fingerprint is empty: it must contain whatever decides a caption")
    _require(captioner.fingerprint() == first, "two calls of fingerprint() differ")


def _check_fit(captioner: FitsToSlide, patches: Patches, mpp: float) -> Captioner:
    """The captioner fitted to a slide with these patches, checked against a second fit."""
    fitted, again = captioner.fit(patches, mpp=mpp), captioner.fit(patches, mpp=mpp)
    _require(isinstance(fitted, Captioner), f"fit() returned a {type(fitted).__name__}, expected a captioner")
    _require(not isinstance(fitted, FitsToSlide), "a fitted captioner must not ask for another fit")
    _require(fitted.fingerprint() == again.fingerprint(), "two fits to the same patches have different fingerprints")
    _require(
        (fitted.name, fitted.fact_names) == (getattr(captioner, "name", None), getattr(captioner, "fact_names", None)),
        "name or fact_names change with the fit",
    )
    _require(isinstance(captioner.fit(patches[:0], mpp=mpp), Captioner), "fit() must accept a slide without patches")
    _check_attributes(fitted)
    _check_fingerprint(fitted)
    return fitted


def _check_captions(captioner: Captioner, patches: Patches, mpp: float) -> list[Caption]:
    before = captioner.fingerprint()
    given = patches.copy()
    found = captioner.caption(given, mpp=mpp)
    _require(bool((given == patches).all()), "caption() changed the pixels it was given")
    _require(
        isinstance(found, list) and all(isinstance(caption, Caption) for caption in found),
        "caption() must return a list of Caption",
    )
    _require(len(found) == len(patches), f"{len(found)} captions for {len(patches)} patches")
    for row, caption in enumerate(found):
        _check_caption(captioner, caption, f"patch {row}")
    _require(captioner.caption(patches[:0], mpp=mpp) == [], "an empty batch must give an empty list")
    _require(captioner.fingerprint() == before, "the fingerprint changed with a call of caption()")
    return found


def _check_caption(captioner: Captioner, caption: Caption, where: str) -> None:
    _require(isinstance(caption.text, str), f"{where}: text is a {type(caption.text).__name__}")
    _require(
        caption.source in ("", captioner.name), f"{where}: source is {caption.source!r}, expected {captioner.name!r}"
    )
    _require(
        isinstance(caption.failure, str) and "\n" not in caption.failure,
        f"{where}: failure is {caption.failure!r}, expected one line of text",
    )
    undeclared = sorted(caption.facts.keys() - set(captioner.fact_names))
    _require(not undeclared, f"{where}: facts that fact_names does not declare: {', '.join(undeclared)}")
    for name, value in caption.facts.items():
        _require(
            isinstance(value, int | float | np.number) and math.isfinite(value),
            f"{where}: fact {name} is {value!r}, expected a finite number; leave out what was not measured",
        )


def _check_independence(captioner: Captioner, patches: Patches, mpp: float, found: list[Caption]) -> None:
    _require(_same(captioner.caption(patches, mpp=mpp), found), "the same patches get other captions when asked again")
    for row in range(len(patches)):
        alone = captioner.caption(patches[row : row + 1], mpp=mpp)
        _require(
            _same(alone, found[row : row + 1]),
            f"patch {row} gets another caption alone than in a batch: captions must be in the order of the patches, "
            "and each must depend on its own patch alone",
        )


def _check_refusals(captioner: Captioner, patches: Patches, mpp: float) -> None:
    cases = (
        ("images of floats", patches.astype(np.float32) / 255, mpp),
        ("images without colour", patches[..., 0], mpp),
        ("a pixel size of 0 µm", patches, 0.0),
        ("a pixel size that is not a number", patches, math.nan),
    )
    for what, images, scale in cases:
        try:
            captioner.caption(images, mpp=scale)  # type: ignore[arg-type]
        except RequestError:
            continue
        raise AssertionError(f"{what} must be refused with RequestError: call wsikit.captions.base.check_patches")


def _check_parallel(captioner: Captioner, patches: Patches, mpp: float, found: list[Caption]) -> None:
    try:
        copy = pickle.loads(pickle.dumps(captioner))
    except Exception as error:  # pickling may fail in any way
        raise AssertionError(f"a parallel captioner must be picklable: {type(error).__name__}: {error}") from error
    _require(copy.fingerprint() == captioner.fingerprint(), "the fingerprint changes by pickling")
    _require(_same(copy.caption(patches, mpp=mpp), found), "captions change by pickling")
    with ThreadPoolExecutor(4) as pool:
        for one in pool.map(lambda _: captioner.caption(patches, mpp=mpp), range(4)):
            _require(_same(one, found), "captions change when several threads ask at once")


def _same(left: Sequence[Caption], right: Sequence[Caption]) -> bool:
    return list(left) == list(right)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
