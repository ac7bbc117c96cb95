"""The YAML file of `wsikit train` with `architecture: afloc`. No torch here. No classes and no labels are needed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from wsikit.training.afloc.phrases import Phrase
from wsikit.training.afloc.settings import AflocSettings
from wsikit.training.config import CaptionsConfig, FeatureBranch, ImageBranch, TextBranch
from wsikit.training.task import DataConfig, SplitConfig

AFLOC = "afloc"


def _kind(image: Any) -> str:
    features = "features" in image if isinstance(image, dict) else isinstance(image, FeatureBranch)
    return "features" if features else "pixels"


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
    image: Annotated[
        Annotated[ImageBranch, Tag("pixels")] | Annotated[FeatureBranch, Tag("features")], Discriminator(_kind)
    ]
    """An image encoder that is trained, or features of a frozen one: `image: {features: NAME}`."""
    text: TextBranch
    start: str | None = None
    """Packaged model or folder of an MMLNB model whose image encoder training starts from; default: `image.weights`."""
    competitors: Literal["lexicon", "negation", "both"] = "lexicon"
    """What a concept competes with by default when the model is used; "negation" needs the level `presence`."""
    phrases: tuple[Phrase, ...] = ()
    """Words for what captions state by grades, as people would ask for it; see `wsikit.training.afloc.phrases`."""
    training: AflocSettings

    @model_validator(mode="after")
    def _captions_and_scale(self) -> AflocTrainConfig:
        if self.captions.source == "none":
            raise ValueError("captions: AFLoc learns from captions; source none leaves nothing to learn")
        if isinstance(self.image, FeatureBranch) and (self.start is not None or self.training.freeze):
            raise ValueError("features: their encoder is not trained; leave out start and freeze")
        if isinstance(self.image, FeatureBranch) and self.training.quality_negatives is not None:
            raise ValueError("features: they cannot be degraded; leave out quality_negatives")
        if self.start is not None and self.image.weights is not None:
            raise ValueError("give either start or image.weights")
        if self.image.context is not None:
            raise ValueError("image.context: AFLoc sees the patch alone; leave it out")
        return self
