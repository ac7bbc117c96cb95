"""Patches with captions and stored features instead of pixels, for an AFLoc over a frozen encoder."""

from __future__ import annotations

from dataclasses import replace

from wsikit.errors import RequestError
from wsikit.models.model_folder import EncoderRecord
from wsikit.training.afloc.config import AflocTrainConfig
from wsikit.training.config import FeatureBranch
from wsikit.training.data import PatchSet
from wsikit.training.datasets.configured import mpp_of, table_of
from wsikit.training.heads.data import FeatureSet, Load, OnDone, features_of_table
from wsikit.training.texts import with_captions


def feature_patches(
    config: AflocTrainConfig,
    *,
    described: PatchSet | None = None,
    device: str = "auto",
    load: Load | None = None,
    on_done: OnDone = lambda done, total: None,
) -> tuple[PatchSet, EncoderRecord, FeatureSet]:
    """The patches with their features, float32 (N, D), in place of pixels; their encoder; and what was loaded.

    Parameters
    ----------
    described
        The patches with the captions of a captioner, which needs their pixels; None: captions are read with the table.
    device, load, on_done
        As for `wsikit.training.heads.data.load_features`.
    """
    assert isinstance(config.image, FeatureBranch)
    table = table_of(config.data, needs_class=False)
    table = replace(table, classes=("",) * len(table))
    found = features_of_table(
        table, mpp_of(table, config.data), config.name, config.data, ("",), config.image,
        device=device, load=load, on_done=on_done,
    )  # fmt: skip
    of_id = dict(zip(table.files, table.captions, strict=True)) if described is None else described_by(described)
    patches = found.patches.with_captions([of_id[one] or "" for one in found.patches.ids])
    if described is None:
        patches = with_captions(patches, config.captions, mpp=found.mpp)
        if not any(caption.strip() for caption in patches.captions):
            raise RequestError(f"captions: none of the {len(patches)} patches has one. Set a captioner or a column.")
    return replace(patches, images=found.features), found.encoder, found  # type: ignore[arg-type]


def described_by(patches: PatchSet) -> dict[str, str | None]:
    """Caption by id."""
    return dict(zip(patches.ids, patches.captions, strict=True))
