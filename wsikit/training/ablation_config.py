"""The configuration of an ablation, its jobs and files, and the untrained model; see ablation.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from wsikit.models.mmlnb import MMLNB
from wsikit.training.config import ImageBranch, TrainConfig, without_unused
from wsikit.training.data import PatchSet
from wsikit.training.factory import build_model
from wsikit.training.fusion_variants import ArmSettings
from wsikit.training.rivals import DEFAULT, ON_OTHER_IMAGE, Rival
from wsikit.training.settings import FitSettings
from wsikit.training.splits import Split, read_splits
from wsikit.training.text_pretraining import VOCABULARY_FROM, drawn_captions

NONE, SHUFFLED = "no captions", "shuffled captions"
PATCHES_FILE, SPLITS_FILE, READER_FILE, CONFIG_FILE = "patches.npz", "splits.json", "reader.safetensors", "config.json"
FACTS_FILE = "facts.npz"


class FoldsConfig(BaseModel):
    """Settings of the cross-validation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    k: int = Field(default=5, ge=3)
    seed: int = Field(default=0, ge=0)
    """Seed of the folds, which are the same for all training seeds."""
    training_seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    block_px: float | None = Field(default=None, gt=0)
    """Bootstrap unit of the intervals: square blocks of this side, in the source's pixels, instead of whole groups. For
    data with too few groups."""


class AblationConfig(TrainConfig):
    """The file of `wsikit ablate`: a training configuration (`training` is for the image branch) with more settings."""

    folds: FoldsConfig = FoldsConfig()
    text_training: FitSettings | None = None
    """Of the text branch; with cross_fit, that has them."""
    fusion: ArmSettings
    rivals: tuple[Rival, ...] = DEFAULT
    """Rivals and controls that are measured as well; `two_image_seeds` trains a second image branch. More can be added
    to a finished ablation: only these are then computed."""
    other_image: ImageBranch | None = None
    """Of the rivals `other_image` and `other_image_and_text`: trained with the same settings, for comparison."""

    @model_validator(mode="after")
    def _text_training_once(self) -> AblationConfig:
        if (self.text_training is None) == (self.cross_fit is None):
            raise ValueError("give either text_training, or cross_fit with text: the settings of the text branch")
        return self

    @model_validator(mode="after")
    def _other_image_is_given(self) -> AblationConfig:
        asked = sorted(ON_OTHER_IMAGE & set(self.rivals))
        if asked and self.other_image is None:
            raise ValueError(f"rivals: {', '.join(asked)} need other_image, the settings of another image branch")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without_unused(handler(self), "numbers", "other_image")

    @property
    def of_text(self) -> FitSettings:
        """Settings of the text branch."""
        found = self.text_training if self.cross_fit is None else self.cross_fit.text
        assert found is not None
        return found


@dataclass(frozen=True)
class Job:
    """One fold under one seed."""

    seed: int
    fold: int

    @property
    def file(self) -> str:
        """File of its predictions."""
        return f"predictions/seed{self.seed}_fold{self.fold}.npz"

    @property
    def branches(self) -> str:
        """File of its trained branches."""
        return f"branches/seed{self.seed}_fold{self.fold}.safetensors"

    @property
    def rivals(self) -> str:
        """File of its rivals' predictions."""
        return f"rivals/seed{self.seed}_fold{self.fold}.npz"


def jobs(config: AblationConfig) -> Iterator[Job]:
    """All jobs of an ablation."""
    for seed in config.folds.training_seeds:
        for fold in range(config.folds.k):
            yield Job(seed, fold)


def load_patches(out: Path) -> tuple[PatchSet, list[Split]]:
    """Patches and folds of the ablation in `out`."""
    data = PatchSet.load(out / PATCHES_FILE)
    return data, read_splits(out / SPLITS_FILE, data)


def untrained(config: AblationConfig, *, seed: int) -> MMLNB:
    """The untrained model, with the vocabulary of the measuring captioner at this scale."""
    assert config.data.mpp is not None
    words, _, _ = drawn_captions(VOCABULARY_FROM, mpp=config.data.mpp, seed=0, in_slide=config.captions.in_slide)
    training = config.training.model_copy(update={"seed": seed})
    return build_model(config.model_copy(update={"training": training}), words, mpp=config.data.mpp)
