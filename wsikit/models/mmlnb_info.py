"""An MMLNB's configuration as `ModelInfo`. No torch."""

from __future__ import annotations

from wsikit.models.config import FeatureBranchConfig, ModelConfig
from wsikit.models.protocol import (
    FEATURES,
    IMAGE,
    NUMBERS,
    OOD_SCORE,
    PROBABILITY,
    TEXT,
    FeatureSource,
    ModelColumn,
    ModelInfo,
)

COLUMNS = (
    ModelColumn(PROBABILITY, per_class=True),
    ModelColumn("probability_image", per_class=True),
    ModelColumn("probability_text", per_class=True),
    ModelColumn("gate", unit="0 image only … 1 text only"),
)
OOD_COLUMN = ModelColumn(OOD_SCORE, unit="above 1: out of the distribution of the training patches")


def info_of(config: ModelConfig, fingerprint: str, *, has_ood: bool) -> ModelInfo:
    """An MMLNB's configuration as `ModelInfo`."""
    stored = config.image if isinstance(config.image, FeatureBranchConfig) else None
    sources: tuple[FeatureSource, ...] = ()
    if stored is not None:
        sources = (FeatureSource(stored.name, stored.width, stored.fingerprint, stored.given_as),)
    of_image = IMAGE if stored is None else FEATURES + stored.name
    numbers = config.numbers
    fits_to = [of_image] if config.image.context == "slide" else []
    fits_to += [NUMBERS] if numbers is not None and numbers.in_slide else []
    return ModelInfo(
        name=config.name,
        version=config.version,
        architecture=config.architecture,
        fingerprint=fingerprint,
        patch_px=config.patch_px,
        mpp=config.mpp,
        stain=config.stain,
        classes=config.classes,
        class_names=config.class_names,
        colors=config.colors,
        background=config.background,
        notice=config.notice,
        captioner=config.captioner,
        inputs=(of_image, TEXT) if numbers is None else (of_image, TEXT, NUMBERS),
        columns=(*COLUMNS, OOD_COLUMN) if has_ood else COLUMNS,
        features=sources,
        prior=config.prior,
        balanced=bool(config.balanced),
        facts=() if numbers is None else numbers.facts,
        field_um=None if numbers is None else numbers.field_um,
        whole_slide=() if config.prmf.field is None else (PROBABILITY,),
        fits_to=tuple(fits_to),
    )
