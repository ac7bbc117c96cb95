"""A CLIP of transformers with its tokenizer, from a folder: scores equal to the model's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import wsikit
from wsikit.slides.store import SlideStore
from wsikit.tiling.stream import read_patches

WORDS = ("<s>", "</s>", "<unk>", "necrosis", "fat", "background", "bare", "glass", "empty", "slide", "blank", "white")


@pytest.fixture
def clip_folder(tmp_path: Path) -> Path:
    """A CLIP of random weights, with a tokenizer that has a token per word."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    folder = tmp_path / "tiny-clip"
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokens = {"vocab_size": len(WORDS), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    torch.manual_seed(6)  # pink and blue patches differ
    model = CLIPModel(
        CLIPConfig(
            text_config={**sizes, **tokens, "max_position_embeddings": 40},
            vision_config={**sizes, "image_size": 32, "patch_size": 16},
            projection_dim=8,
        )
    )
    model.logit_scale.data.fill_(3.0)
    model.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


def test_probabilities_are_those_of_the_model_itself(square_store: SlideStore, clip_folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

    (found,) = wsikit.localize(
        square_store,
        ["necrosis"],
        against=["fat"],
        synonyms=_single(clip_folder),
        templates=["{}"],
        sigma=0,
        encoder=str(clip_folder),
        device="cpu",
    )
    table = square_store.patches()
    rows = np.arange(0, len(table), 33)
    images = read_patches(square_store, table.grid, table.coords[rows]).images
    model: Any = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = AutoTokenizer.from_pretrained(clip_folder)(["necrosis", "fat", "glass"], padding=True, return_tensors="pt")
    pixels = CLIPImageProcessor.from_pretrained(clip_folder)(list(images), return_tensors="pt")
    with torch.no_grad():
        logits = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, **pixels).logits_per_image
    expected = torch.softmax(logits, dim=1)[:, 0].numpy()
    np.testing.assert_allclose(table.read(found.column)[rows], expected, atol=5e-3)  # features are float16
    assert np.ptp(expected) > 0.2


def _single(folder: Path) -> Path:
    """A lexicon with one synonym for each concept of the test."""
    path = folder / "words.json"
    path.write_text('{"necrosis": ["necrosis"], "fat": ["fat"], "background": ["glass"]}')
    return path


def test_a_finished_map_loads_neither_torch_nor_transformers(square_store: SlideStore, clip_folder: Path) -> None:
    wsikit.localize(square_store, ["necrosis"], encoder=clip_folder, device="cpu")
    code = (
        "import sys, wsikit; print(wsikit.localize(sys.argv[1], ['necrosis'], encoder=sys.argv[2])[0].concept, "
        "[name for name in ('torch', 'transformers', 'timm') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(square_store.folder), str(clip_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "necrosis []"
