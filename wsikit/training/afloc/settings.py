"""Settings of AFLoc's training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

PARTS, LEVELS = ("image", "text", "heads"), ("word", "sentence", "report", "presence")


class QualityNegatives(BaseModel):
    """Degraded copies of patches in each step, after CoMCL (arXiv 2404.04887).

    A copy shows the tissue of its patch. It is a hard negative of all texts that are not true of the patch: what looks
    like ink, a fold or a blur must not be taken for tissue.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(0.5, gt=0, le=1)
    """Of the patches of a step, that are given a copy."""
    kinds: tuple[Literal["blur", "pen", "fold"], ...] = Field(("blur", "pen", "fold"), min_length=1)
    """Of `wsikit.training.degrade`."""
    truth: Literal["patch", "caption"] = "patch"
    """What is true of a copy. "patch": what the model says of its patch, for each question of the level presence. Only
    the image branch learns by it, normalised as in use, so that texts and statistics stay those of clean patches.
    "caption": what the caption says, at the levels sentence and presence, in one batch with the patches, as images of
    poor quality are used by CoMCL. It asks for tissue that a fault may hide, and clean patches lose by it."""
    weight: float = Field(0.3, gt=0)
    """With truth: patch, of the loss of the copies, next to that of the patches; at 1 clean patches lose."""
    self_paced: bool = False
    """Begin with the easier half of the copies: those whose loss at the level of presence is above a quantile, which
    rises from 0.5 to 1 over the epochs, are left out there."""


class AflocSettings(BaseModel):
    """Settings of the three levels and of the loop."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(gt=0)
    batch: int = Field(64, gt=1)
    """Bags per step."""
    seed: int = Field(0, ge=0)
    lr: dict[str, float] = {"image": 1e-4, "text": 1e-3, "heads": 1e-3}
    """Peak learning rate of each part; 0: frozen."""
    freeze: tuple[str, ...] = ()
    """Children of the image encoder that stay as they are, such as conv1 and layer1: a step then takes less time."""
    weight_decay: float = Field(1e-2, ge=0)
    warmup: float = Field(0.05, ge=0, lt=1)
    """Fraction of all steps for warm-up; then cosine decay."""
    clip: float = Field(1.0, gt=0)
    stain_scale: float = Field(0.0, ge=0, lt=1)
    stain_shift: float = Field(0.0, ge=0)

    width: int = Field(64, gt=0)
    """Width of the shared space."""
    weights: dict[str, float] = {"word": 1.0, "sentence": 1.0, "report": 1.0}
    """Weight of each level's loss; 0 or not named: left out. `presence`: a patch is asked, for each term, whether a
    phrase that names it or one that denies it is true, by the softmax of these two. A map of a concept against its
    negation then is a probability."""
    bag: int = Field(1, gt=0)
    """Patches of a bag, neighbours on one slide: the report level compares a bag with the captions of its patches."""
    sentence: Literal["patch", "region"] = "patch"
    """The sentence level compares a sentence with single patches, or with the patches of a bag by attention."""
    texts: int = Field(64, gt=1)
    """Statements per step, of the sentence level."""
    word_texts: int = Field(16, gt=1)
    """Statements per step, of the word level, which costs most."""
    joined: float = Field(0.25, ge=0, le=1)
    """Share of texts that join two statements of one patch, as reports join sentences."""
    queue: int = Field(0, ge=0)
    """Number of earlier patches that are kept as further negatives of the sentence level."""
    quality_negatives: QualityNegatives | None = None
    """Degraded copies that are to be read as their patches are; default: none."""
    closed_world: bool = True
    """What a caption does not name is absent. For captions that name all they find."""
    published: bool = False
    """Losses of the published code, each patch's first partner its only one, for comparison."""
    temperatures: bool = True
    """Learn the temperatures; else they keep the published values."""

    @model_validator(mode="after")
    def _names(self) -> AflocSettings:
        if sorted(self.lr) != sorted(PARTS) or min(self.lr.values()) < 0:
            raise ValueError(f"lr: give a rate of 0 or more for each of {', '.join(PARTS)}; 0 freezes a part")
        if not set(self.weights) <= set(LEVELS) or min(self.weights.values(), default=0) < 0:
            raise ValueError(f"weights: levels are {', '.join(LEVELS)}, with weights of 0 or more")
        if not any(self.weights.values()):
            raise ValueError("weights: all levels have weight 0; nothing would be learnt")
        return self

    @model_validator(mode="after")
    def _copies_are_used(self) -> AflocSettings:
        if self.quality_negatives is None:
            return self
        presence = bool(self.weights.get("presence"))
        if self.quality_negatives.truth == "patch" and not presence:
            raise ValueError("quality_negatives: truth patch needs the level presence, or give truth: caption")
        if self.quality_negatives.truth == "caption":
            if self.sentence == "region" or not (presence or self.weights.get("sentence")):
                raise ValueError("quality_negatives: truth caption needs the level presence or sentence, of patches")
            if "weight" in self.quality_negatives.model_fields_set:
                raise ValueError("quality_negatives: weight is that of truth: patch; leave it out")
        if self.quality_negatives.self_paced and not presence:
            raise ValueError("quality_negatives: self_paced needs the level presence")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Settings without copies are written as before there were any, so that unfinished runs can be resumed."""
        written: dict[str, Any] = handler(self)
        return {name: value for name, value in written.items() if name != "quality_negatives" or value is not None}
