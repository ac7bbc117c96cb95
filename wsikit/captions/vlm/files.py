"""Folders of models and adapters on disk: finding them, their records, and their hashes. No torch, no network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsikit.errors import ModelError

RECORD_FILE = "wsikit.json"
"""File in the folder of a model or adapter: its prompt and image side, and the data it was trained on."""
ADAPTER_FOLDER = "adapter"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_ZOO = Path(__file__).parents[1] / "zoo"
_SMALL_FILES = ("*.json", "*.jinja", "*.txt", "*.model")
_LEFT_OUT = frozenset([RECORD_FILE, "metrics.json", "generation_config.json"])
"""Files that do not decide a caption: our own record, metrics, and decoding defaults, which are never used."""
_FULL_HASH_BYTES = 64 * 2**20
_SAMPLES, _SAMPLE_BYTES = 64, 2**16


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter on disk."""

    folder: Path
    """Contains adapter_config.json and adapter_model.safetensors."""
    record: dict[str, Any] | None
    """The record that wsikit wrote after training; None if another program trained it."""


def packaged_captioners() -> tuple[str, ...]:
    """Names of the generative captioners that come with the package.

    Examples
    --------
    >>> packaged_captioners()
    ('phantom-captioner',)
    """
    return tuple(sorted(path.parent.name for path in _ZOO.glob("*/config.json")))


def find_vlm(path_or_id: str | Path) -> Path:
    """Folder of a packaged captioner, of a model on disk, or of a hub id in the local cache.

    Raises
    ------
    ModelError
        It is not on this disk; nothing is ever downloaded.

    Examples
    --------
    >>> find_vlm("phantom-captioner").name
    'phantom-captioner'
    """
    name = str(path_or_id)
    if name in packaged_captioners():
        return _ZOO / name
    folder = Path(path_or_id)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(_not_a_model(folder))
        return folder
    cached = _from_cache(name)
    if cached is None:
        raise ModelError(
            f"{name}: not on this disk, and nothing is downloaded automatically. Pass a folder, a packaged captioner "
            f"({', '.join(packaged_captioners()) or 'none'}), or download the model once: hf download {name}"
        )
    return cached


def _from_cache(name: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        return None


def _not_a_model(folder: Path) -> str:
    if (folder / ADAPTER_CONFIG).is_file() or (folder / ADAPTER_FOLDER / ADAPTER_CONFIG).is_file():
        return f"{folder}: an adapter, not a model. Pass the model it was trained on, and this folder as adapter."
    return f"{folder}: no config.json in it, so not a transformers model. Pass the folder that contains it."


def find_adapter(folder: str | Path) -> Adapter:
    """The adapter in a folder or in its sub-folder `adapter`, as fine-tuning writes it.

    Raises
    ------
    ModelError
        There is none, or its weights are pickled.
    """
    given = Path(folder)
    inner = given / ADAPTER_FOLDER if (given / ADAPTER_FOLDER / ADAPTER_CONFIG).is_file() else given
    missing = [name for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if not (inner / name).is_file()]
    if missing:
        raise ModelError(
            f"{given}: no adapter in it, {', '.join(missing)} missing. Pass the folder that finetune-captioner or "
            "peft's save_pretrained wrote (safetensors only; pickled weights are never loaded)."
        )
    record = next((read_record(place) for place in (inner, inner.parent) if (place / RECORD_FILE).is_file()), None)
    return Adapter(inner, record)


def read_record(folder: Path) -> dict[str, Any]:
    """Content of wsikit.json in a folder; empty if there is none.

    Raises
    ------
    ModelError
        The file is damaged.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path}: damaged ({error}). Copy the complete folder again.") from error
    if not isinstance(record, dict):
        raise ModelError(f"{path}: damaged (not an object). Copy the complete folder again.")
    return record


def model_fingerprint(folder: str | Path) -> str:
    """sha256 of what decides a model's captions: configuration, processor, tokenizer, chat template, weights.

    Weight files up to 64 MiB are hashed completely. Of larger files, the size, the header (names, shapes and dtypes of
    all tensors) and 64 evenly spaced samples of 64 KiB are hashed: seconds instead of minutes for 15 GB. This
    distinguishes checkpoints of the same shape, but misses a change of a few bytes between the samples.
    """
    place = Path(folder)
    digest = hashlib.sha256()
    small = {path.name: path for pattern in _SMALL_FILES for path in place.glob(pattern) if path.name not in _LEFT_OUT}
    for name in sorted(small):
        digest.update(f"{name} {hashlib.sha256(small[name].read_bytes()).hexdigest()}\n".encode())
    for path in sorted(place.glob("*.safetensors")):
        digest.update(f"{path.name} {_weights_digest(path)}\n".encode())
    return digest.hexdigest()


def adapter_fingerprint(folder: str | Path) -> str:
    """sha256 of an adapter's configuration and complete weights."""
    place = Path(folder)
    digest = hashlib.sha256()
    config = json.loads((place / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config.pop("base_model_name_or_path", None)  # a path, which differs from machine to machine
    digest.update(json.dumps(config, sort_keys=True).encode())
    digest.update(hashlib.sha256((place / ADAPTER_WEIGHTS).read_bytes()).digest())
    return digest.hexdigest()


def text_id(text: str) -> str:
    """Twelve hexadecimal digits that identify a text, such as a prompt.

    Examples
    --------
    >>> text_id("Describe this image.")
    'e062db07943a'
    """
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def data_digest(parts: Iterable[bytes]) -> str:
    """sha256 of parts, each preceded by its length, so that different lists of parts never give the same bytes."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _weights_digest(path: Path) -> str:
    size = path.stat().st_size
    if size <= _FULL_HASH_BYTES:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        digest.update(file.read(min(length, size)))
        for sample in range(_SAMPLES):
            file.seek((size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
