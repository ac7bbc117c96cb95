"""A model small enough to be built in every test."""

from __future__ import annotations

import pytest
import torch

from wsikit.models.config import ImageEncoderConfig, ModelConfig, PRMFConfig, TextEncoderConfig
from wsikit.models.mmlnb import MMLNB
from wsikit.models.tokenizer import CaptionTokenizer

CAPTIONS = ["dense small round nuclei, neuropil absent", "scattered nuclei, 1250 per mm², neuropil abundant"]


@pytest.fixture
def tiny_config() -> ModelConfig:
    return ModelConfig(
        name="tiny",
        version="1",
        classes=("UD", "PD", "D", "other"),
        class_names=("undifferentiated", "poorly differentiated", "differentiating", "other tissue"),
        colors=("#112233", "#445566", "#778899", "#aabbcc"),
        background=("other",),
        mpp=0.5,
        patch_px=64,
        stain="H&E",
        captioner="none",
        text_max_tokens=24,
        prmf=PRMFConfig(d=16),
        image=ImageEncoderConfig(name="lcnet_035"),
        text=TextEncoderConfig(
            model_type="bert",
            options={
                "vocab_size": 120,
                "hidden_size": 32,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 32,
                "max_position_embeddings": 24,
            },
        ),
        notice="a test's model",
    )


@pytest.fixture
def tiny_model(tiny_config: ModelConfig) -> MMLNB:
    torch.manual_seed(5)
    tokenizer = CaptionTokenizer.train(CAPTIONS, vocabulary=120, max_tokens=24)
    return MMLNB(tiny_config, tokenizer).eval()
