"""Loading a model, its processor and its adapter from folders. Offline; no code from a model's folder is executed."""

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

from wsikit.captions.vlm.files import ADAPTER_WEIGHTS, Adapter
from wsikit.errors import ModelError, RequestError, WsikitError, reason_of
from wsikit.tensor_files import check_finite, no_larger_than, read_safetensors

Quantize = Literal["4bit"]
_UNTYPED_PROCESSOR: Any = AutoProcessor  # transformers has no types for it
_UNTYPED_LOGGING: Any = hf_logging
_UNTYPED_MODEL: Any = AutoModelForImageTextToText
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Place:
    """Device and precision of a model."""

    device: torch.device
    dtype: torch.dtype


def choose_place(device: str = "auto", dtype: str = "auto") -> Place:
    """Device and precision. "auto": CUDA in bfloat16 (float16 on GPUs without it), Apple GPUs in float16, else the CPU
    in float32.

    Raises
    ------
    RequestError
        The device is not available, or a name is unknown.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RequestError(f"device {device!r} cannot be used here ({reason}). Pass cpu, cuda, mps or auto.") from error
    if dtype == "auto":
        half = "bfloat16" if chosen.type == "cuda" and torch.cuda.is_bf16_supported() else "float16"
        dtype = "float32" if chosen.type == "cpu" else half
    if dtype not in DTYPES:
        raise RequestError(f"dtype {dtype!r} is unknown; known: auto, {', '.join(DTYPES)}")
    return Place(chosen, DTYPES[dtype])


def load_base(folder: Path, place: Place, *, quantize: Quantize | None = None) -> tuple[Any, Any]:
    """Model, in evaluation mode, and processor of a folder.

    Raises
    ------
    ModelError
        It is not an image-text-to-text model, has no safetensors weights, or is damaged.
    RequestError
        `quantize` is not supported on this machine.
    """
    config = _read_config(folder)
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ModelError(
            f"{folder}: a {config.model_type} model, not an image-text-to-text model. Pass one such as Qwen2.5-VL."
        )
    if not any(folder.glob("*.safetensors")):
        raise ModelError(
            f"{folder}: no safetensors weights. Pickled weights are never loaded; convert them to safetensors."
        )
    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    if quantize is not None:
        options |= _quantized(quantize, place)
    model: Any
    found: Any
    try:
        processor = _UNTYPED_PROCESSOR.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with _no_progress_bar(), no_larger_than(*sorted(folder.glob("*.safetensors"))):
            model, found = _UNTYPED_MODEL.from_pretrained(
                folder,
                dtype=place.dtype,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                **options,
            )
    except WsikitError:
        raise
    except Exception as error:  # libraries check settings as they like, by errors of every type
        raise ModelError(
            f"{folder}: could not be loaded ({_first_line(error)}). Copy the complete folder again."
        ) from error
    if getattr(processor, "tokenizer", None) is None or not getattr(processor, "chat_template", None):
        raise ModelError(
            f"{folder}: its processor has no tokenizer or no chat template. Pass an instruction-tuned model, "
            "or add its chat_template.jinja to the folder."
        )
    odd = sorted([*found["missing_keys"], *(str(one[0]) for one in found["mismatched_keys"])])
    if odd:  # the library would draw them
        raise ModelError(
            f"{folder}: {len(odd)} tensors are missing or have another shape, such as {odd[0]}. Copy the complete "
            "folder again."
        )
    check_finite(dict(model.named_parameters()), folder)
    if quantize is None:
        model.to(place.device)
    return model.eval(), processor


def attach(model: Any, adapter: Adapter, *, base_fingerprint: str, merge: bool = False) -> Any:
    """Add a LoRA adapter to a base model; with `merge`, merge it into the weights.

    Raises
    ------
    ModelError
        The base already has an adapter, or the adapter was trained on another base.
    """
    from peft import PeftModel, get_peft_model_state_dict

    if isinstance(model, PeftModel) or getattr(model, "peft_config", None):
        raise ModelError(f"{adapter.folder}: this model already has an adapter. Load the base again for another one.")
    known = (adapter.record or {}).get("base", {}).get("fingerprint")
    if known is not None and known != base_fingerprint:
        name = (adapter.record or {}).get("base", {}).get("name")
        raise ModelError(
            f"{adapter.folder}: trained on another base ({name}, {known[:12]}) than the one given "
            f"({base_fingerprint[:12]}). Pass the base it was trained on."
        )
    weights = adapter.folder / ADAPTER_WEIGHTS
    tensors = read_safetensors(weights)
    check_finite(tensors, weights)
    try:
        with no_larger_than(weights):
            whole = PeftModel.from_pretrained(model, str(adapter.folder), is_trainable=False)
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{adapter.folder}: does not fit this model ({_first_line(error)}). Pass the base it was trained on."
        ) from error
    wanted = get_peft_model_state_dict(whole, save_embedding_layers=False)
    if odd := sorted(wanted.keys() ^ tensors.keys()):  # the library draws what is missing, and passes over the rest
        raise ModelError(
            f"{weights}: {len(odd)} tensors are missing or unknown, such as {odd[0]}. Copy the adapter's folder "
            "again, or pass the base it was trained on."
        )
    return (whole.merge_and_unload(safe_merge=True) if merge else whole).eval()


def _read_config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # libraries check settings as they like, by errors of every type
        raise ModelError(
            f"{folder}: transformers does not support this config.json without the model's own code "
            f"({reason_of(error)}). Use another model, or a newer version of transformers."
        ) from error


def _quantized(quantize: str, place: Place) -> dict[str, Any]:
    if quantize != "4bit":
        raise RequestError(f"quantize {quantize!r} is unknown; known: 4bit")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise RequestError("quantize 4bit needs bitsandbytes, which is not installed: pip install 'wsikit[quantized]'")
    if place.device.type != "cuda":
        raise RequestError(f"quantize 4bit needs a CUDA device, not {place.device.type}. Omit it, or use cuda.")
    from transformers import BitsAndBytesConfig

    make_config: Any = BitsAndBytesConfig  # untyped in transformers
    config = make_config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=place.dtype,
        bnb_4bit_use_double_quant=True,
    )
    return {"quantization_config": config, "device_map": {"": place.device}}


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Hide the progress bar of transformers, which would interfere with the caller's output."""
    shown = hf_logging.is_progress_bar_enabled()
    _UNTYPED_LOGGING.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            _UNTYPED_LOGGING.enable_progress_bar()


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Error(s) in loading"):  # torch names the tensor in the next line
        return lines[1]
    return lines[0] if lines else type(error).__name__
