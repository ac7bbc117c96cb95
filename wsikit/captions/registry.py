"""Captioners by name. A name is a string that can be stored: in run.json, in a model's configuration.

morphometry                    measures; the default
morphometry-in-slide           measures, and ranks each patch among those of its slide
NAME                           a generative captioner that comes with the package
PLUGIN [#ARGUMENT]             a captioner of another package: entry-point group `wsikit.captioners`
DIR | ORG/MODEL [#ADAPTER]     a vision-language model on this disk, with a LoRA adapter's folder
http://HOST:PORT/v1 [#MODEL]   an OpenAI-compatible server, with the model's name there

The first that matches from the top is taken; write ./NAME for a folder that has the name of a captioner.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from wsikit.captions.base import Captioner
from wsikit.captions.calls import check_images_per_call
from wsikit.captions.fields import FIELD_MPP, Field
from wsikit.captions.vlm.files import packaged_captioners
from wsikit.errors import PluginError, RequestError, WsikitError
from wsikit.plugins import load_plugin, plugin_names, plugin_package

MORPHOMETRY, IN_SLIDE = "morphometry", "morphometry-in-slide"
MEASURING = (MORPHOMETRY, IN_SLIDE)
"""Names of the captioners that measure."""

_SERVER = re.compile(r"https?://", re.IGNORECASE)
_MODEL_ONLY = ("adapter", "dtype", "batch", "quantize")
_SERVER_ONLY = ("concurrency", "timeout_s", "retries", "api_key_env")
_ASKING = ("caption_field", "caption_mpp", "images_per_call")
_DEFAULT_TEMPERATURE = 0.7


@dataclass(frozen=True, slots=True)
class CaptionerOptions:
    """Settings of a generative captioner. None: its default. An option that does not apply to a captioner is refused.

    Examples
    --------
    >>> CaptionerOptions(seed=1, batch=4).given()
    {'seed': 1, 'batch': 4}
    """

    adapter: str | None = None
    """Folder of a LoRA adapter."""
    prompt: str | None = None
    """The full text that the model is asked about each patch."""
    max_new_tokens: int | None = None
    """Maximum length of a caption, tokens."""
    temperature: float | None = None
    seed: int | None = None
    """If a temperature or a seed is given, words are sampled: with this seed (default 0), at this temperature (default
    0.7). Otherwise decoding is greedy."""
    dtype: str | None = None
    """"float32", "bfloat16", …"""
    quantize: str | None = None
    """"4bit"."""
    batch: int | None = None
    """Batch size of a model on this disk; only the speed depends on it."""
    concurrency: int | None = None
    """Concurrent requests to a server; only the speed depends on it."""
    timeout_s: float | None = None
    retries: int | None = None
    api_key_env: str | None = None
    """Name of the environment variable that holds a server's key."""
    caption_field: int | None = None
    """Side of a field, px: it is described once, for all the patches in it. None: each patch is described."""
    caption_mpp: float | None = None
    """µm/px of a field; default 2."""
    images_per_call: int | None = None
    """Number of images that are described in one request, or one prompt of a model; default 1."""

    def given(self) -> dict[str, Any]:
        """The options that were set, by name."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in pairs if value is not None}


def load_captioner(
    spec: str = MORPHOMETRY, options: CaptionerOptions | None = None, *, device: str = "auto"
) -> Captioner:
    """Load the captioner that `spec` names.

    Parameters
    ----------
    spec
        morphometry, morphometry-in-slide, the name of a packaged captioner, the name of a plug-in (`#` and its argument
        may follow), the folder or hub id of a model on this disk (`#` and an adapter's folder may follow), or the
        address of a server ending in /v1 (`#` and a model's name may follow).
    options
        Settings of a generative captioner. A plug-in gets those that are set, as keyword arguments.
    device
        "auto", "cpu" or "cuda": where a model on this disk runs.

    Raises
    ------
    RequestError
        There is no captioner of that name, or an option does not apply to it.
    PluginError
        The plug-in cannot be imported, or does not return a captioner.
    ModelError, UnreachableError
        The model cannot be used; no server answers at the address.

    Examples
    --------
    >>> import numpy as np
    >>> captioner = load_captioner("morphometry")
    >>> white = np.full((1, 64, 64, 3), 245, np.uint8)
    >>> captioner.caption(white, mpp=0.5)[0].text
    'Bare glass: blank abundant (100 %).'
    """
    options = options or CaptionerOptions()
    given = options.given()
    if spec in MEASURING:
        _refuse(spec, "measures and takes no options", given)
        from wsikit.captions.in_slide import MorphometryInSlide
        from wsikit.captions.morphometry import Morphometry

        return Morphometry() if spec == MORPHOMETRY else MorphometryInSlide()
    if _SERVER.match(spec):
        _refuse(spec, "is a server", [name for name in given if name in _MODEL_ONLY])
        return _server(spec, options)
    if _is_plugin(spec):
        return _plugin(spec, given, device)
    _refuse(spec, "is a model on this disk", [name for name in given if name in _SERVER_ONLY])
    return _model(spec, options, device)


def check_captioner(spec: str) -> None:
    """Check that `spec` names a captioner, without loading a model. A plug-in is imported.

    Raises
    ------
    RequestError
        There is no captioner of that name.
    PluginError
        The plug-in cannot be imported.

    Examples
    --------
    >>> check_captioner("morphometry")
    """
    if _is_plugin(spec):
        load_plugin("captioners", spec.partition("#")[0])
    elif spec not in MEASURING and not _SERVER.match(spec):
        _find(spec)


def captioner_for(trained_on: str) -> str:
    """The captioner to use with a model that was trained on captions of `trained_on`: the same one if it comes with the
    package or is an installed plug-in, otherwise the default.

    Examples
    --------
    >>> captioner_for("morphometry-in-slide"), captioner_for("table")
    ('morphometry-in-slide', 'morphometry')
    """
    known = trained_on in (*MEASURING, *packaged_captioners()) or _is_plugin(trained_on)
    return trained_on if known else MORPHOMETRY


def name_of(spec: str) -> str:
    """The `name` of the captioner that `spec` names; nothing is loaded.

    Examples
    --------
    >>> name_of("morphometry"), name_of("http://localhost:8000/v1#my-model"), name_of("models/tiny#adapter")
    ('morphometry', 'server', 'tiny')
    """
    return "server" if _SERVER.match(spec) else Path(spec.partition("#")[0]).name


def captioner_identity(captioner: str | Captioner, options: CaptionerOptions | None = None) -> dict[str, Any]:
    """Whatever decides the captions of a captioner, JSON-ready, without loading it: its name, its settings, the names,
    sizes and times of its files, the version of a plug-in's package. For a loaded captioner: name and fingerprint."""
    if not isinstance(captioner, str):
        return {"name": captioner.name, "fingerprint": captioner.fingerprint()}
    files: dict[str, list[list[Any]]] = {}
    for part in captioner.split("#"):
        if Path(part).is_dir():
            files[part] = [
                [path.name, path.stat().st_size, path.stat().st_mtime_ns]
                for path in sorted(Path(part).iterdir())
                if path.is_file()
            ]
    identity: dict[str, Any] = {
        "spec": captioner,
        "options": {} if options is None else options.given(),
        "files": files,
    }
    if _is_plugin(captioner):
        identity["package"] = plugin_package("captioners", captioner.partition("#")[0])
    return identity


def _is_plugin(spec: str) -> bool:
    name = spec.partition("#")[0]
    return name not in (*MEASURING, *packaged_captioners()) and name in plugin_names("captioners")


def _plugin(spec: str, given: dict[str, Any], device: str) -> Captioner:
    name, _, argument = spec.partition("#")
    make = load_plugin("captioners", name)
    if not callable(make):
        raise PluginError(f"captioner {spec!r}: the plug-in {name!r} is a {type(make).__name__}, expected a callable")
    _refuse(spec, "is a plug-in", _not_taken(make, given))
    try:
        captioner = make(argument or None, device=device, **given)
    except WsikitError:
        raise
    except Exception as error:  # a plug-in may fail in any way; it is named, with its error
        raise PluginError(
            f"captioner {spec!r}: the plug-in {name!r} could not make it: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(captioner, Captioner):
        raise PluginError(
            f"captioner {spec!r}: the plug-in {name!r} returned a {type(captioner).__name__}, which is no captioner: "
            "it needs name, fact_names, fingerprint() and caption(). See wsikit.testing.check_captioner."
        )
    if captioner.name != name:
        raise PluginError(
            f"captioner {spec!r}: its name is {captioner.name!r}, expected {name!r}, the name of the plug-in: models "
            "and stores record captioners by name. Rename one of the two."
        )
    return captioner


def _not_taken(make: Callable[..., Any], given: Iterable[str]) -> list[str]:
    """Options that the plug-in's callable has no keyword for."""
    parameters = inspect.signature(make).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return []
    taken = {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}
    return [name for name in given if name not in taken]


def _server(spec: str, options: CaptionerOptions) -> Captioner:
    from wsikit.captions.server import Decoding, ServerCaptioner

    url, _, model = spec.partition("#")
    sampling = _sampling(options)
    decoding = Decoding(
        options.max_new_tokens or Decoding().max_tokens, *((sampling[1], sampling[0]) if sampling else ())
    )
    named = {name: getattr(options, name) for name in _SERVER_ONLY if getattr(options, name) is not None}
    named |= _asking(options)
    return ServerCaptioner(url, model=model or None, prompt=options.prompt, decoding=decoding, **named)


def _model(spec: str, options: CaptionerOptions, device: str) -> Captioner:
    path_or_id, adapter = _find(spec)
    if adapter and options.adapter:
        raise RequestError(
            f"captioner {spec!r} names an adapter already; --adapter {options.adapter} is a second one. Give one."
        )
    from wsikit.captions.vlm import Sampling, load_vlm

    sampling = _sampling(options)
    others = ("adapter", "temperature", "seed", *_ASKING)
    named = {name: value for name, value in options.given().items() if name not in others} | _asking(options)
    sample = Sampling(*sampling) if sampling else None
    return load_vlm(path_or_id, adapter=options.adapter or adapter, device=device, sample=sample, **named)


def _asking(options: CaptionerOptions) -> dict[str, Any]:
    """Field and images per call, as keyword arguments; empty by default."""
    named: dict[str, Any] = {}
    if options.caption_field is not None:
        named["field"] = Field(options.caption_field, FIELD_MPP if options.caption_mpp is None else options.caption_mpp)
    elif options.caption_mpp is not None:
        raise RequestError("--caption-mpp is the pixel size of a field; add --caption-field PX")
    if options.images_per_call is not None:
        named["images_per_call"] = check_images_per_call(options.images_per_call)
    return named


def _sampling(options: CaptionerOptions) -> tuple[int, float] | None:
    """Seed and temperature; None for greedy decoding."""
    if options.seed is None and options.temperature is None:
        return None
    return options.seed or 0, _DEFAULT_TEMPERATURE if options.temperature is None else options.temperature


def _find(spec: str) -> tuple[str, str | None]:
    """Folder or hub id, and adapter, of a model on this disk."""
    name, _, adapter = spec.partition("#")
    if name in packaged_captioners():
        return name, adapter or None
    # a hub id is looked up by the library that keeps the cache; its own message names what is missing there
    if not (Path(name).is_dir() or re.fullmatch(r"[\w.-]+/[\w.-]+", name)):
        known = ", ".join(map(repr, (*MEASURING, *packaged_captioners())))
        plugins = ", ".join(map(repr, plugin_names("captioners"))) or "none"
        raise RequestError(
            f"unknown captioner {spec!r}. Known: {known}; installed plug-ins: {plugins}. Or give a model's folder, the "
            "hub id of a model on this disk, or a server's address such as http://localhost:8000/v1"
        )
    return name, adapter or None


def _refuse(spec: str, kind: str, options: Iterable[str]) -> None:
    names = list(options)
    if names:
        raise RequestError(f"captioner {spec!r} {kind}: {', '.join(names)} does not apply to it")
