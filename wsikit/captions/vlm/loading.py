"""A model, its processor and its adapter from folders into memory. Offline; no code from a model's folder is run."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.utils import logging as hf_logging

from wsikit.captions.vlm.files import Adapter
from wsikit.errors import ModelError, RequestError

Quantize = Literal["4bit"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Place:
    """Where and how exactly a model computes."""

    device: torch.device
    dtype: torch.dtype


def choose_place(device: str = "auto", dtype: str = "auto") -> Place:
    """CUDA in bfloat16 (float16 on cards without it), Apple in float16, else the CPU in float32.

    Raises
    ------
    RequestError
        If the device is not there, or a name is unknown.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"device {device!r} cannot be used here ({reason}). Give cpu, cuda, mps or auto.") from error
    if dtype == "auto":
        half = "bfloat16" if chosen.type == "cuda" and torch.cuda.is_bf16_supported() else "float16"
        dtype = "float32" if chosen.type == "cpu" else half
    if dtype not in DTYPES:
        raise RequestError(f"dtype {dtype!r} is unknown; there are auto, {', '.join(DTYPES)}")
    return Place(chosen, DTYPES[dtype])


def load_base(folder: Path, place: Place, *, quantize: Quantize | None = None) -> tuple[Any, Any]:
    """Model and processor of a folder, ready to answer.

    Raises
    ------
    ModelError
        If it is not an image-text-to-text model, has no safetensors weights, or is damaged.
    RequestError
        If `quantize` cannot be had here.
    """
    config = _read_config(folder)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ModelError(
            f"{folder}: a {config.model_type} model, not one that turns image and text into text. "
            "Give one such as Qwen2.5-VL."
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(f"{folder}: no safetensors weights. Pickled ones are never opened; convert them.")
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if quantize is not None:
        options |= _quantized(quantize, place)
    model: Any
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with _no_progress_bar():
            model = AutoModelForImageTextToText.from_pretrained(
                folder, dtype=place.dtype, use_safetensors=True, **options
            )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"{folder}: could not be loaded ({_first_line(error)}). Copy the folder again, whole."
        ) from error
    if getattr(processor, "tokenizer", None) is None or not getattr(processor, "chat_template", None):
        raise ModelError(
            f"{folder}: its processor has no tokenizer or no chat template. Give an instruction-tuned model, "
            "or put its chat_template.jinja there."
        )
    if quantize is None:
        model.to(place.device)
    return model.eval(), processor


def attach(model: Any, adapter: Adapter, *, base_fingerprint: str, merge: bool = False) -> Any:
    """A clean base with a LoRA adapter on it; with `merge`, folded into its weights.

    Raises
    ------
    ModelError
        If the base has an adapter already, or the adapter was trained on another base.
    """
    from peft import PeftModel

    if isinstance(model, PeftModel) or getattr(model, "peft_config", None):
        raise ModelError(f"{adapter.folder}: this model has an adapter already. Load the base anew for another one.")
    known = (adapter.record or {}).get("base", {}).get("fingerprint")
    if known is not None and known != base_fingerprint:
        name = (adapter.record or {}).get("base", {}).get("name")
        raise ModelError(
            f"{adapter.folder}: trained on another base ({name}, {known[:12]}) than the one given "
            f"({base_fingerprint[:12]}). Give that base."
        )
    try:
        whole = PeftModel.from_pretrained(model, str(adapter.folder), is_trainable=False)
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{adapter.folder}: does not fit this model ({_first_line(error)}). Give the base it was trained on."
        ) from error
    return (whole.merge_and_unload(safe_merge=True) if merge else whole).eval()


def _read_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{folder}: config.json is not one that transformers knows without the model's own code "
            f"({_first_line(error)}). Give another model, or a newer transformers."
        ) from error


def _quantized(quantize: str, place: Place) -> dict[str, Any]:
    if quantize != "4bit":
        raise RequestError(f"quantize {quantize!r} is unknown; there is 4bit")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RequestError("quantize 4bit needs bitsandbytes, which is not installed: pip install 'wsikit[quantized]'")
    if place.device.type != "cuda":
        raise RequestError(f"quantize 4bit needs a CUDA device, not {place.device.type}. Leave it out, or use cuda.")
    from transformers import BitsAndBytesConfig

    rule = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=place.dtype,
        bnb_4bit_use_double_quant=True,
    )
    return {"quantization_config": rule, "device_map": {"": place.device}}


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Without transformers' bar over the weights: it writes between the lines of whoever calls."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
