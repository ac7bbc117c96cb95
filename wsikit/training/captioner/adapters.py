"""LoRA on a loaded model: choice of layers, adding and checking the adapter, merging it into a full model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import nn

from wsikit.captions.vlm.files import RECORD_FILE, find_adapter, find_vlm, model_fingerprint, read_record
from wsikit.captions.vlm.loading import attach, choose_place, load_base
from wsikit.errors import ModelError
from wsikit.training.captioner.settings import FinetuneSettings


def resolve_targets(model: nn.Module, pattern: str) -> list[str]:
    """Names of the linear layers that `pattern` matches completely, in the model's order.

    Raises
    ------
    ModelError
        If no layer matches.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    chosen = [name for name in linear if re.fullmatch(pattern, name)]
    if not chosen:
        raise ModelError(
            f"no linear layer of this model matches the targets {pattern!r}; it has, for example, "
            f"{', '.join(linear[:: max(1, len(linear) // 4)][:4])}. Give a regular expression for whole names."
        )
    return chosen


def add_lora(model: Any, settings: FinetuneSettings) -> tuple[Any, list[str]]:
    """Add a new trainable adapter to a model without one; return it with the names of the adapted layers.

    Raises
    ------
    ModelError
        If the model already has an adapter, or the adapted layers are not the requested ones.
    """
    from peft import LoraConfig, PeftModel, TaskType, get_peft_model
    from peft.tuners.lora import LoraLayer

    if isinstance(model, PeftModel) or getattr(model, "peft_config", None):
        raise ModelError("this model already has an adapter: load the base model again.")
    wanted = resolve_targets(model, settings.pattern)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]  # a fraction is fine: only the ratio counts
        lora_dropout=settings.dropout,
        bias="none",
        task_type=TaskType.CAUSAL_LM,
        target_modules=wanted,
    )
    whole = get_peft_model(model, config)
    inner = whole.get_base_model()
    adapted = [name for name, module in inner.named_modules() if isinstance(module, LoraLayer)]
    if adapted != wanted:
        differing = sorted(set(adapted) ^ set(wanted))
        raise ModelError(
            f"{len(adapted)} layers were adapted, {len(wanted)} were requested; first difference: {differing[0]}."
        )
    return whole, adapted


def merge_adapter(path_or_id: str | Path, adapter: str | Path, out: str | Path) -> Path:
    """Merge an adapter into its base and write the result as a full model, in float32; it loads like any other model.

    Parameters
    ----------
    path_or_id
        The base model, as in `load_vlm`.
    adapter
        Folder of the adapter.
    out
        New folder.

    Raises
    ------
    ModelError
        If `out` is not empty, or the adapter belongs to another base.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ModelError(f"{out}: not empty; give a new folder, nothing is overwritten.")
    folder, found = find_vlm(path_or_id), find_adapter(adapter)
    model, processor = load_base(folder, choose_place("cpu", "float32"))
    merged = attach(model, found, base_fingerprint=model_fingerprint(folder), merge=True)
    merged.save_pretrained(out)
    processor.save_pretrained(out)
    record = read_record(folder) | (found.record or {})
    record.pop("base", None)
    if record:
        text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
        (out / RECORD_FILE).write_text(text, encoding="utf-8")
    return out
