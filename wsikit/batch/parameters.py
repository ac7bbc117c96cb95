"""All settings that determine the results of a run, as one frozen value. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from wsikit.voting.parameters import VoteParameters

if TYPE_CHECKING:
    from wsikit.captions.registry import CaptionerOptions
    from wsikit.inference.budget import Budget
    from wsikit.tiling.plan import ImageParameters
    from wsikit.tiling.roi import FrameChoice
    from wsikit.tissue.parameters import TissueParameters

DEFAULT_MIN_TISSUE = 0.25
DEFAULT_MIN_ROI = 0.5


@dataclass(frozen=True)
class RunParameters:
    """Settings of a run. Patch size and scale come from the model."""

    model: str = "phantom-mmlnb"
    """Name or folder of the model."""
    captioner: str | None = None
    """Captioner, see `wsikit.captions.load_captioner`; None: the captioner that the model was trained with if it is
    packaged, else morphometry."""
    captioner_options: CaptionerOptions | None = None
    caption_budget: Budget | None = None
    """Per slide; None: every patch is described."""
    overlap_px: int = 0
    """Overlap of neighbouring patches, px at the model's mpp."""
    min_tissue: float = DEFAULT_MIN_TISSUE
    """Minimum tissue fraction of a patch, 0–1."""
    tissue: TissueParameters | None = None
    image: ImageParameters | None = None
    """How pixels are stored."""
    stain: str | None = None
    """Stain normalisation before the model; see `wsikit.inference.stain.parse_stain`."""
    concepts: tuple[tuple[str, str], ...] = ()
    """(axis, option) of concepts that are set by hand in every patch, of a model with concepts."""
    without: tuple[tuple[str, float], ...] = ()
    """(fact, limit): patches above one get no prediction; see `wsikit.predict`."""
    vote: VoteParameters = field(default_factory=VoteParameters)
    roi_classes: tuple[str, ...] = ()
    """Classes of the regions of interest (`SlideEntry.roi`) that are used; empty: all."""
    min_roi: float = DEFAULT_MIN_ROI
    """Minimum fraction of a patch inside these regions, 0–1."""
    roi_frame: FrameChoice = "auto"
    """What the coordinates of these regions count from; see `wsikit.tiling.roi.FRAMES`."""

    features: tuple[str, ...] = ()
    """Encoders whose features are computed."""
    features_dtype: str = "float16"
    """Type of their columns."""
    features_precision: str = "auto"
    """Numbers that they are computed in."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, with the defaults filled in."""
        from wsikit.tiling.plan import ImageParameters
        from wsikit.tissue.parameters import TissueParameters

        record = asdict(self)
        record["vote"] = {**self.vote.to_json(), "weights": self.vote.weights}
        record["concepts"] = dict(self.concepts)
        if not self.concepts:
            del record["concepts"]  # runs of before it existed have the same settings
        record["without"] = dict(self.without)
        if not self.without:
            del record["without"]  # as above
        if self.roi_frame == "auto":
            del record["roi_frame"]  # as above
        if not self.features:
            del record["features"], record["features_dtype"]  # as above
        if not self.features or self.features_precision == "auto":
            del record["features_precision"]  # as above
        if self.tissue is None:
            record["tissue"] = asdict(TissueParameters())
        if self.image is None:
            record["image"] = asdict(ImageParameters())
        options = self.captioner_options
        record["captioner_options"] = {} if options is None else options.given()
        return record
