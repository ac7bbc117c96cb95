"""A small untrained model, built in every test run."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained MMLNB for patches of 64 px at 1 µm/px, saved."""
    import torch

    from wsikit.models.config import ImageEncoderConfig, ModelConfig, PRMFConfig, TextEncoderConfig
    from wsikit.models.io import save_model
    from wsikit.models.mmlnb import MMLNB
    from wsikit.models.tokenizer import CaptionTokenizer

    torch.manual_seed(5)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = ModelConfig(
        name="tiny",
        version="1",
        classes=("UD", "PD", "D", "other"),
        class_names=("undifferentiated", "poorly differentiated", "differentiating", "other tissue"),
        colors=("#d55e00", "#f0e442", "#0072b2", "#8c8c8c"),
        background=("other",),
        mpp=1.0,
        patch_px=64,
        stain="H&E",
        captioner="morphometry",
        text_max_tokens=24,
        prmf=PRMFConfig(d=16),
        image=ImageEncoderConfig(name="lcnet_035"),
        text=TextEncoderConfig(model_type="bert", options={"vocab_size": 120, "max_position_embeddings": 24, **sizes}),
        notice="A model for tests.",
    )
    tokenizer = CaptionTokenizer.train(["dense small round nuclei"], vocabulary=120, max_tokens=24)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return save_model(MMLNB(config, tokenizer).eval(), folder, card="A model for tests.")
