"""Build what a configuration describes: the patches and the untrained model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from wsikit.errors import ModelError
from wsikit.models.config import (
    FeatureBranchConfig,
    ImageEncoderConfig,
    ModelConfig,
    NumbersConfig,
    TextEncoderConfig,
)
from wsikit.models.encoders import ImageEncoder, text_config_of
from wsikit.models.mmlnb import MMLNB
from wsikit.models.model_folder import EncoderRecord, joined_notice
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.scrub import scrub
from wsikit.training.config import FeatureBranch, ImageBranch, TrainConfig
from wsikit.training.data import Prepared, patch_set
from wsikit.training.datasets.configured import configured_table, words_of_dropped
from wsikit.training.numbers import facts_at

__all__ = ["Loaded", "build_model", "image_config", "image_weights", "load_data", "on_this_disk"]


@dataclass(frozen=True)
class Loaded:
    """The patches of a configuration."""

    prepared: Prepared
    dropped_classes: dict[str, int]
    """Number of patches left out, by their class, which the model does not have."""

    def words(self) -> str:
        """Summary of the patches and of those left out, in one or two sentences."""
        return self.prepared.words() + words_of_dropped(self.dropped_classes)


def load_data(config: TrainConfig) -> Loaded:
    """Load the patches of the configuration, with the table's own captions.

    Raises
    ------
    RequestError
        If a part is missing or inconsistent; the message names it.
    """
    data = config.data
    mapped, mpp = configured_table(config)
    prepared = patch_set(
        mapped.table, config.codes, patch_px=data.patch_px, mpp=mpp, group=data.group, odd_sizes=data.odd_sizes
    )
    if config.captions.source == "none":
        prepared = replace(prepared, patches=prepared.patches.with_captions([""] * len(prepared.patches)))
    return Loaded(prepared, mapped.dropped)


def build_model(
    config: TrainConfig,
    captions: tuple[str, ...],
    *,
    mpp: float,
    encoder: EncoderRecord | None = None,
    tokenizer: CaptionTokenizer | None = None,
) -> MMLNB:
    """Build the untrained model (with pretrained encoders if weights are given). Equal seeds give equal weights.

    Parameters
    ----------
    captions
        Captions of the training patches only: a new vocabulary is learnt from them.
    mpp
        µm/px of the model's input patches.
    encoder
        Of the features that the image branch reads, if it reads features.
    tokenizer
        Use this one instead of learning a vocabulary.
    """
    text, folder = config.text, None
    if text.pretrained is not None:
        folder = on_this_disk(text.pretrained)
        tokenizer = CaptionTokenizer.load(folder, max_tokens=text.max_tokens)
        text_config = text_config_of(folder)
    else:
        assert text.model_type is not None
        words = [""] if tokenizer else [scrub(caption) for caption in captions if caption] or [""]
        tokenizer = tokenizer or CaptionTokenizer.train(words, vocabulary=text.vocabulary, max_tokens=text.max_tokens)
        # two more positions than tokens: RoBERTa and similar models count positions from the padding id
        usual = {"max_position_embeddings": text.max_tokens + 2, "pad_token_id": 0}
        options = usual | text.options | {"vocab_size": tokenizer.vocabulary}
        text_config = TextEncoderConfig(model_type=text.model_type, options=options)
    torch.manual_seed(config.training.seed)
    model = MMLNB(_model_config(config, text_config, mpp, encoder), tokenizer)
    if folder is not None:
        model.text.load_weights(folder)
    if config.image.weights is not None and isinstance(model.image, ImageEncoder):
        model.image.load_weights(image_weights(config.image.weights))
    return model


def _model_config(
    config: TrainConfig, text: TextEncoderConfig, mpp: float, encoder: EncoderRecord | None
) -> ModelConfig:
    image = config.image
    captions = config.captions
    return ModelConfig(
        name=config.name,
        version=config.version,
        classes=config.codes,
        class_names=tuple(c.name or c.code for c in config.classes),
        colors=config.colors,
        background=config.background,
        mpp=round(mpp, 6),
        patch_px=config.data.patch_px,
        stain=config.data.stain,
        captioner=captions.captioner or captions.source,
        text_max_tokens=config.text.max_tokens,
        prmf=config.prmf if config.cross_fit is None else config.prmf.model_copy(update={"revision": 2}),
        image=image_config(image, encoder),
        text=text,
        numbers=_numbers(config, mpp),
        notice=joined_notice(config.notice, encoder),
    )


def image_config(image: ImageBranch, encoder: EncoderRecord | None) -> ImageEncoderConfig | FeatureBranchConfig:
    """Of the image branch of a configuration; `encoder` is that of the features, if it reads features."""
    if isinstance(image, FeatureBranch):
        assert encoder is not None
        known = encoder.model_dump(include={"name", "width", "fingerprint", "given_as"})
        return FeatureBranchConfig(project=image.project, context=image.context, **known)
    return ImageEncoderConfig(
        name=image.name, options=image.options, mean=image.mean, std=image.std, context=image.context
    )


def _numbers(config: TrainConfig, mpp: float) -> NumbersConfig | None:
    if config.numbers is None:
        return None
    settings = config.numbers.model_dump()
    return NumbersConfig(**settings | {"facts": config.numbers.facts or facts_at(mpp)})


def image_weights(name: str) -> Path:
    """The safetensors file of a path or of a hub id in the local cache; nothing is downloaded."""
    if Path(name).is_file():
        return Path(name)
    return on_this_disk(name) / "model.safetensors"


def on_this_disk(name: str) -> Path:
    """A local folder, or the cached folder of a hub id; nothing is downloaded."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError) as error:
        raise ModelError(
            f"{name}: neither a local file or folder nor a model in the local cache of the hub. "
            "Nothing is downloaded: download it first, or give its path."
        ) from error
