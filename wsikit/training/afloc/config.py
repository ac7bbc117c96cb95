"""The YAML file of `wsikit train` with `architecture: afloc`. No torch here. No classes and no labels are needed."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsikit.training.afloc.settings import AflocSettings
from wsikit.training.config import CaptionsConfig, ImageBranch, TextBranch
from wsikit.training.task import DataConfig, SplitConfig

AFLOC = "afloc"


class AflocTrainConfig(BaseModel):
    """All settings of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Literal["afloc"]
    name: str = Field(pattern=r"^[a-z0-9.-]+$")
    """Also the name of its columns: lower case, digits, dots and hyphens."""
    version: str = "1"
    notice: str = "For research use only. Not for diagnosis."
    licence: str = ""
    """Of the weights."""
    data: DataConfig
    captions: CaptionsConfig = CaptionsConfig()
    split: SplitConfig = SplitConfig()
    image: ImageBranch
    text: TextBranch
    start: str | None = None
    """Packaged model or folder of an MMLNB model whose image encoder training starts from; default: `image.weights`."""
    competitors: Literal["lexicon", "negation", "both"] = "lexicon"
    """What a concept competes with by default when the model is used; "negation" needs the level `presence`."""
    training: AflocSettings

    @model_validator(mode="after")
    def _captions_and_scale(self) -> AflocTrainConfig:
        if self.captions.source == "none":
            raise ValueError("captions: AFLoc learns from captions; source none leaves nothing to learn")
        if self.start is not None and self.image.weights is not None:
            raise ValueError("give either start or image.weights")
        if self.image.context is not None:
            raise ValueError("image.context: AFLoc sees the patch alone; leave it out")
        return self
