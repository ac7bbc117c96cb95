"""Which engine runs an encoder: as asked for, or measured once per encoder and machine.

Choices are kept in a folder of the user (`choices_path`), so that the next run does not measure again.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.encoders.cache import cache_folder
from wsikit.encoders.engine import FLOAT32_TOLERANCE, HALF_TOLERANCE, Engine, Images, PlainEngine
from wsikit.encoders.engine_request import ENGINES
from wsikit.encoders.protocol import PatchEncoder
from wsikit.errors import RequestError, WsikitError
from wsikit.store.atomic import write_json
from wsikit.store.receipts import digest_of

logger = logging.getLogger(__name__)

LEAST_ROWS = 2048
"""With fewer patches to do nothing is measured: that would take longer than it gains."""

COMPILE_FROM_S = 1200.0
"""Compiling takes up to a minute; it is tried where the patches take this long without."""

_GAIN = 1.05
"""Another engine than torch has to be this much faster."""


@dataclass(frozen=True)
class Choice:
    """An engine, and why it was chosen."""

    engine: Engine
    reason: str
    final: bool = True
    """False: with more patches to do, it would be measured."""


def choose_engine(
    encoder: PatchEncoder, *, engine: str = "auto", precision: str = "auto", patch_px: int = 224, rows: int = 0
) -> Choice:
    """The engine for an encoder.

    Parameters
    ----------
    engine
        "torch", "compile" (`torch.compile`), "onnx" (ONNX Runtime), or "auto": the fastest of them as measured once for
        this encoder on this machine. With few patches to do, "auto" is torch.
    precision
        See `wsikit.encoders.precision.precision_on`.
    patch_px, rows
        Side of the patches, and how many are to do.

    Raises
    ------
    RequestError
        There is no such engine or precision, it needs a package that is missing, or the encoder is no torch module.
    """
    if engine not in ENGINES:
        raise RequestError(f"engine {engine!r}: expected {', '.join(ENGINES)}.")
    if not _is_torch(encoder):
        if engine not in ("auto", "torch") or precision not in ("auto", "float32"):
            raise RequestError(
                f"encoder {encoder.info.name} is not a torch module: it runs as it is; leave out --engine and "
                "--precision."
            )
        return Choice(PlainEngine(encoder, getattr(encoder, "device", "cpu"), "float32", 32), "the encoder's own")
    if engine != "auto":
        return Choice(_make(engine, encoder, precision), "asked for")
    first = _make("torch", encoder, precision)
    key = _key(encoder, first, patch_px)
    known = _read().get(key)
    if isinstance(known, dict) and known.get("engine") in ENGINES:
        made = _attempt(str(known["engine"]), encoder, precision, first)
        if made is not None:
            return Choice(made, "the fastest here, as measured before")
    if rows < LEAST_ROWS:
        return Choice(first, "few patches: nothing measured", final=False)
    return _fastest(encoder, first, precision, patch_px, rows, key)


def _fastest(encoder: PatchEncoder, first: Engine, precision: str, patch_px: int, rows: int, key: str) -> Choice:
    """The fastest engine as measured now; the choice is kept."""
    images = np.random.default_rng(0).integers(0, 256, (first.batch * 4, patch_px, patch_px, 3), dtype=np.uint8)
    expected = np.concatenate([found[0] for _, found in first.stream(_parts(images, first.batch))])
    speeds = {first.name: patches_per_s(first, images)}
    engines = {first.name: first}
    for name in _others(first, rows / speeds[first.name]):
        made = _attempt(name, encoder, precision, first)
        if made is None:
            continue
        found = np.concatenate([found[0] for _, found in made.stream(_parts(images, made.batch))])
        tolerance = FLOAT32_TOLERANCE if made.precision == "float32" else HALF_TOLERANCE
        if np.abs(found - expected).max() > tolerance * np.abs(expected).max():
            logger.warning("engine %s: other features than torch; it is not used", name)
            continue
        engines[name], speeds[name] = made, patches_per_s(made, images)
    best = max(speeds, key=lambda name: speeds[name] * (_GAIN if name == first.name else 1.0))
    record = {"engine": best, "patches_per_s": {name: round(speed, 2) for name, speed in speeds.items()}}
    _keep(key, record)
    words = ", ".join(f"{name} {speed:.3g}" for name, speed in speeds.items())
    return Choice(engines[best], f"measured now, patches/s: {words}")


def patches_per_s(engine: Engine, images: Images) -> float:
    """Speed of an engine on patches in memory: the better of two passes."""
    best = float("inf")
    for _ in range(2):
        begun = time.perf_counter()
        for _ in engine.stream(_parts(images, engine.batch)):
            pass
        best = min(best, time.perf_counter() - begun)
    return len(images) / max(best, 1e-9)


def _parts(images: Images, size: int) -> list[tuple[int, Images]]:
    return [(start, images[start : start + size]) for start in range(0, len(images), size)]


def _others(first: Engine, seconds: float) -> list[str]:
    """Engines that are worth trying; `seconds` is what the patches take with the first."""
    from wsikit.encoders.engine_request import has_onnx

    on_cpu = first.device == "cpu"
    names = ["onnx"] if on_cpu and first.precision == "float32" and has_onnx() else []
    return [*names, "compile"] if seconds > COMPILE_FROM_S else names


def _attempt(name: str, encoder: PatchEncoder, precision: str, first: Engine) -> Engine | None:
    """An engine, or None where it cannot be made or run here."""
    if name == first.name:
        return first
    try:
        made = _make(name, encoder, precision)
        made.encode(np.zeros((1, made.encoder.info.patch_px, made.encoder.info.patch_px, 3), np.uint8))
    except WsikitError as error:
        logger.info("engine %s: %s", name, error)
    except Exception:  # a compiler that is missing or fails
        logger.info("engine %s: cannot be used", name, exc_info=True)
    else:
        return made
    return None


def _make(name: str, encoder: Any, precision: str) -> Engine:
    from wsikit.encoders.torch_engine import CompiledEngine, TorchEngine

    if name == "onnx":
        from wsikit.encoders.onnx_engine import OnnxEngine

        if precision not in ("auto", "float32"):
            raise RequestError(f"engine 'onnx': computes in float32, not {precision}.")
        return OnnxEngine(encoder)
    return (CompiledEngine if name == "compile" else TorchEngine)(encoder, precision=precision)


def _is_torch(encoder: PatchEncoder) -> bool:
    if "torch" not in sys.modules:
        return False
    from wsikit.encoders.torch_encoder import TorchEncoder

    return isinstance(encoder, TorchEncoder)


def choices_path() -> Path:
    """The file of choices, in the user's cache folder."""
    return cache_folder() / "engines.json"


def _key(encoder: PatchEncoder, first: Engine, patch_px: int) -> str:
    """Digest of what the speed of engines depends on."""
    import torch

    from wsikit.encoders.engine_request import has_onnx

    name = torch.cuda.get_device_name(first.device) if first.device.startswith("cuda") else _processor()
    parts = [encoder.info.fingerprint, name, first.precision, patch_px, torch.get_num_threads(), torch.__version__]
    return digest_of([*parts, has_onnx()])


def _processor() -> str:
    try:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    return next((line for line in about.splitlines() if line.startswith("model name")), platform.processor())


def _read() -> dict[str, Any]:
    try:
        found = json.loads(choices_path().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    return found if isinstance(found, dict) else {}


def _keep(key: str, record: dict[str, Any]) -> None:
    path = choices_path()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {**_read(), key: record})
    except (OSError, WsikitError):
        logger.info("%s: the choice of an engine could not be kept", path, exc_info=True)
