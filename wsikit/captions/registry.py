"""Which captioner a name stands for. Names are strings that can be kept: in run.json, in a model's configuration.

morphometry                    measures; the default
morphometry-in-slide           measures, and says how a patch stands among those of its slide
NAME                           a captioner that comes with the package
DIR | ORG/MODEL [#ADAPTER]     a vision-language model on this disk, with a LoRA adapter's folder
http://HOST:PORT/v1 [#MODEL]   an OpenAI-compatible server, with the model's name there
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from wsikit.captions.base import Captioner
from wsikit.captions.vlm.files import packaged_captioners
from wsikit.errors import RequestError

MORPHOMETRY, IN_SLIDE = "morphometry", "morphometry-in-slide"
MEASURING = (MORPHOMETRY, IN_SLIDE)
"""Captioners that come with the code."""

_SERVER = re.compile(r"https?://", re.IGNORECASE)
_MODEL_ONLY = ("adapter", "dtype", "batch", "quantize")
_SERVER_ONLY = ("concurrency", "timeout_s", "retries", "api_key_env")


@dataclass(frozen=True, slots=True)
class CaptionerOptions:
    """How a generative captioner is set. None: as it is by default. What a kind has no use for is refused."""

    adapter: str | None = None
    """Folder of a LoRA adapter."""
    prompt: str | None = None
    """What the model is asked, in full."""
    max_new_tokens: int | None = None
    """Longest caption, tokens."""
    temperature: float | None = None
    seed: int | None = None
    """With either of the two, words are drawn at random by the seed (0) at the temperature (0.7); else the likeliest
    word is taken."""
    dtype: str | None = None
    """"float32", "bfloat16", …"""
    quantize: str | None = None
    """"4bit"."""
    batch: int | None = None
    """Patches at once, for a model on this disk; the speed alone depends on it."""
    concurrency: int | None = None
    """Requests to a server under way at once; the speed alone depends on it."""
    timeout_s: float | None = None
    retries: int | None = None
    api_key_env: str | None = None
    """Name of the environment variable that holds a server's key."""

    def given(self) -> dict[str, Any]:
        """Those that were set, by name."""
        pairs = ((field.name, getattr(self, field.name)) for field in fields(self))
        return {name: value for name, value in pairs if value is not None}


def load_captioner(
    spec: str = MORPHOMETRY, options: CaptionerOptions | None = None, *, device: str = "auto"
) -> Captioner:
    """The captioner that `spec` names.

    Parameters
    ----------
    spec
        morphometry, morphometry-in-slide, a packaged captioner's name, a model's folder or hub id on this disk (`#`
        and an adapter's folder may follow), or a server's address ending in /v1 (`#` and a model's name may follow).
    device
        "auto", "cpu", "cuda": where a model on this disk runs.

    Raises
    ------
    RequestError
        There is none of that name, or an option does not apply to it.
    ModelError, UnreachableError
        It is there but cannot be used; nothing answers at the address.
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
    _refuse(spec, "is a model on this disk", [name for name in given if name in _SERVER_ONLY])
    return _model(spec, options, device)


def check_captioner(spec: str) -> None:
    """Raise what `load_captioner` would raise for a name that stands for nothing; nothing is loaded."""
    if spec not in MEASURING and not _SERVER.match(spec):
        _find(spec)


def captioner_for(taught: str) -> str:
    """The captioner to describe patches for a model that was trained on the words of the one called `taught`: that one
    where it comes with the package, else the one that measures."""
    return taught if taught in (*MEASURING, *packaged_captioners()) else MORPHOMETRY


def name_of(spec: str) -> str:
    """The `name` of the captioner that `spec` stands for; nothing is loaded."""
    return "server" if _SERVER.match(spec) else Path(spec.partition("#")[0]).name


def captioner_identity(captioner: str | Captioner, options: CaptionerOptions | None = None) -> dict[str, Any]:
    """What decides a captioner's captions, JSON-ready, without loading it: its name, its settings, and the names, sizes
    and times of its files. Of a captioner that is loaded, its fingerprint."""
    if not isinstance(captioner, str):
        return {"name": captioner.name, "fingerprint": captioner.fingerprint()}
    files = {}
    for part in captioner.split("#"):
        if Path(part).is_dir():
            files[part] = [
                [path.name, path.stat().st_size, path.stat().st_mtime_ns]
                for path in sorted(Path(part).iterdir())
                if path.is_file()
            ]
    return {"spec": captioner, "options": {} if options is None else options.given(), "files": files}


def _server(spec: str, options: CaptionerOptions) -> Captioner:
    from wsikit.captions.server import Decoding, ServerCaptioner

    url, _, model = spec.partition("#")
    drawn = _drawn(options)
    decoding = Decoding(options.max_new_tokens or Decoding().max_tokens, *((drawn[1], drawn[0]) if drawn else ()))
    named = {name: getattr(options, name) for name in _SERVER_ONLY if getattr(options, name) is not None}
    return ServerCaptioner(url, model=model or None, prompt=options.prompt, decoding=decoding, **named)


def _model(spec: str, options: CaptionerOptions, device: str) -> Captioner:
    place, adapter = _find(spec)
    if adapter and options.adapter:
        raise RequestError(f"captioner {spec!r} names an adapter already; --adapter {options.adapter} is another one")
    from wsikit.captions.vlm import Sampling, load_vlm

    drawn = _drawn(options)
    named = {name: value for name, value in options.given().items() if name not in ("adapter", "temperature", "seed")}
    sample = Sampling(*drawn) if drawn else None
    return load_vlm(place, adapter=options.adapter or adapter, device=device, sample=sample, **named)


def _drawn(options: CaptionerOptions) -> tuple[int, float] | None:
    """Seed and temperature, if words are drawn at random."""
    if options.seed is None and options.temperature is None:
        return None
    return options.seed or 0, 0.7 if options.temperature is None else options.temperature


def _find(spec: str) -> tuple[str, str | None]:
    """Folder or hub id, and adapter, of a model on this disk."""
    name, _, adapter = spec.partition("#")
    if name in packaged_captioners():
        return name, adapter or None
    # a hub id is looked for by the library that keeps the cache; it says itself what is missing there
    if not (Path(name).is_dir() or re.fullmatch(r"[\w.-]+/[\w.-]+", name)):
        known = ", ".join(map(repr, (*MEASURING, *packaged_captioners())))
        raise RequestError(
            f"unknown captioner {spec!r}: there is {known}; or give a model's folder, the hub id of one on this disk, "
            "or a server's address such as http://localhost:8000/v1"
        )
    return name, adapter or None


def _refuse(spec: str, kind: str, options: Any) -> None:
    if options:
        raise RequestError(f"captioner {spec!r} {kind}: {', '.join(options)} does not apply to it")
