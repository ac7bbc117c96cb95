"""Fit a module that holds its data and computes its loss (rows in, loss out) with transformers' Trainer."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import PrinterCallback, Trainer, TrainingArguments

from wsikit.training.batches import Rows
from wsikit.training.settings import FitSettings


@contextmanager
def older_objects_kept() -> Iterator[None]:
    """For the time of a training, garbage collections pass over the objects that are there already.

    Trainer collects all garbage of the process at the start of every training. With the imported libraries that is
    0.3 s of processor time, and a small network is fitted in a tenth of it. As a decorator, so that at the end nothing
    refers to what the training made.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()  # what the training left: later ones would take it for older objects, and pass over it
        gc.unfreeze()


@older_objects_kept()
def fit(
    module: nn.Module, n: int, settings: FitSettings, *, rates: Mapping[str, float] | None = None, seed: int
) -> None:
    """Fit `module` on `n` rows, in place, on its device; it is in eval mode afterwards.

    Parameters
    ----------
    module
        Called with `rows`, int64 (B,), it returns {"loss": …}.
    rates
        Learning rates of child modules by name, if they differ from `settings.lr`.
    """
    device = next(module.parameters()).device
    steps = -(-n // settings.batch) * settings.epochs
    rate = dict.fromkeys(dict(module.named_children()), settings.lr) | dict(rates or {})
    with TemporaryDirectory(prefix="wsikit-fit-") as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch,
            seed=seed,
            max_grad_norm=1.0,
            lr_scheduler_type="cosine",
            warmup_steps=max(1, steps // 10),
            use_cpu=device.type == "cpu",
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            log_level="error",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        trainer = Trainer(
            model=module,
            args=arguments,
            train_dataset=Rows(n),
            data_collator=lambda rows: {"rows": torch.tensor(rows)},
            optimizers=(adamw(dict(module.named_children()), rate, settings.weight_decay), None),
        )
        trainer.remove_callback(PrinterCallback)
        torch.manual_seed(seed)  # order and dropout then do not depend on earlier draws in this process
        trainer.train()
        trainer.accelerator.free_memory()
    module.eval()


def adamw(parts: Mapping[str, nn.Module], lr: Mapping[str, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW with a learning rate per part; weight decay applies to matrices and filters only."""
    groups: list[dict[str, Any]] = []
    for name, part in parts.items():
        parameters = list(part.parameters())
        decays = [p for p in parameters if p.ndim > 1]
        keeps = [p for p in parameters if p.ndim <= 1]
        groups.append({"params": decays, "lr": lr[name], "weight_decay": weight_decay})
        groups.append({"params": keeps, "lr": lr[name], "weight_decay": 0.0})
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
