"""A tiny Qwen2.5-VL, built from its configuration, with its own byte-level tokenizer: for tests and demonstrations.

The classes are those of transformers, so the code that loads, trains and runs it is the same as for 7 B parameters.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from wsikit.errors import RequestError

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_VISION = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_CLAUSE = r" ?[^,.:;]+[,.:;]?|[,.:;]"
"""BPE merges do not cross clauses, so that a frequent clause ("spindle stroma absent,") becomes one token."""

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""The turns of Qwen2.5-VL, without its default system message."""


class TinySize(BaseModel):
    """Sizes of the model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_px: int = Field(default=224, gt=0)
    """Side of the images, px; a multiple of twice the patch."""
    patch_px: int = Field(default=14, gt=0)
    vocabulary: int = Field(default=512, gt=263)
    """Maximum number of tokens: 256 bytes, 7 special tokens, and learned ones."""
    hidden: int = Field(default=64, gt=0)
    """Width of both parts; a multiple of 16 times the heads' number divided by 4."""
    heads: int = Field(default=4, gt=0)
    text_layers: int = Field(default=2, gt=0)
    text_mlp: int = Field(default=128, gt=0)
    vision_layers: int = Field(default=2, gt=0)
    vision_mlp: int = Field(default=128, gt=0)


def build_tiny(
    corpus: Iterable[str], size: TinySize | None = None, *, seed: int = 0
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """An untrained model with its processor; its vocabulary is learned from `corpus`.

    Parameters
    ----------
    corpus
        Captions and prompts from which the tokenizer learns its vocabulary. Other text is encoded in bytes.
    size
        Sizes; the default has about 0.3 M parameters.
    seed
        Seed of the weights.

    Raises
    ------
    RequestError
        The sizes are inconsistent.
    """
    size = size or TinySize()
    head = size.hidden // size.heads
    if size.hidden % size.heads or head % 8 or size.image_px % (2 * size.patch_px):
        raise RequestError(
            f"hidden {size.hidden} over {size.heads} heads, images of {size.image_px} px in patches of "
            f"{size.patch_px}: the width of a head must be a multiple of 8, the image one of twice the patch."
        )
    tokenizer = _tokenizer(corpus, size.vocabulary)
    config = _config(size, tokenizer, head)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(config)
    torch.random.set_rng_state(state)
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids(STOP)
    model.generation_config.pad_token_id = tokenizer.convert_tokens_to_ids(END)
    model.train(False)
    return model, _processor(size, tokenizer)


def save_tiny(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor, folder: str | Path) -> Path:
    """Write model and processor into one folder, for `load_vlm`."""
    folder = Path(folder)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _tokenizer(corpus: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    special = [END, START, STOP, *_VISION]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_CLAUSE), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [re.sub("|".join(map(re.escape, special)), "", text) for text in corpus]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    make_tokenizer: Any = PreTrainedTokenizerFast  # untyped in transformers, as the processor below
    tokenizer_fast: PreTrainedTokenizerFast = make_tokenizer(
        tokenizer_object=tokenizer,
        eos_token=STOP,
        pad_token=END,
        padding_side="left",
        additional_special_tokens=[START, *_VISION],
        extra_special_tokens={
            "image_token": "<|image_pad|>",
            "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>",
            "vision_eos_token": "<|vision_end|>",
        },
    )
    return tokenizer_fast


def _config(size: TinySize, tokenizer: PreTrainedTokenizerFast, head: int) -> Qwen2_5_VLConfig:
    ids: dict[str, Any] = {name: tokenizer.convert_tokens_to_ids(name) for name in (END, STOP, *_VISION)}
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": size.hidden,
        "intermediate_size": size.text_mlp,
        "num_hidden_layers": size.text_layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": max(1, size.heads // 2),
        "max_position_embeddings": 2048,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": _sections(head // 2)},
        "bos_token_id": None,
        "eos_token_id": ids[STOP],
        "pad_token_id": ids[END],
    }
    vision: dict[str, Any] = {
        "depth": size.vision_layers,
        "hidden_size": size.hidden,
        "intermediate_size": size.vision_mlp,
        "num_heads": size.heads,
        "patch_size": size.patch_px,
        "temporal_patch_size": 1,  # still images only: a second frame would double the first layer without any use
        "window_size": size.image_px,  # the image is one window
        "fullatt_block_indexes": list(range(size.vision_layers)),
        "out_hidden_size": size.hidden,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )


def _sections(half: int) -> Sequence[int]:
    """Sizes of the time, row and column sections in half a head, in the ratio 2 : 3 : 3."""
    rows = half * 3 // 8
    return [half - 2 * rows, rows, rows]


def _processor(size: TinySize, tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    pixels = {"shortest_edge": size.image_px**2, "longest_edge": size.image_px**2}
    options: dict[str, Any] = {"patch_size": size.patch_px, "merge_size": 2, "temporal_patch_size": 1, "size": pixels}
    make_processor: Any = Qwen2_5_VLProcessor
    processor: Qwen2_5_VLProcessor = make_processor(
        Qwen2VLImageProcessor(**options),
        tokenizer,
        Qwen2VLVideoProcessor(patch_size=size.patch_px, merge_size=2, size=pixels),
        chat_template=CHAT_TEMPLATE,
    )
    return processor
