"""Concept heads as folders: the files of a head (`wsikit.models.head_kind`). Described and loaded for
`wsikit.models.registry`; torch only for attention."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wsikit.errors import ModelError
from wsikit.models.concept_config import ConceptHeadConfig, info_of_concepts, read_concept_config
from wsikit.models.config import OOD_FILE, WEIGHTS_FILE
from wsikit.models.head_config import head_fingerprint
from wsikit.models.model_folder import check_weights, weights_of
from wsikit.models.protocol import ModelInfo, PatchModel
from wsikit.tensor_files import read_arrays

if TYPE_CHECKING:
    from wsikit.encoders.protocol import PatchEncoder
    from wsikit.models.concept_attention import ConceptAttention


class ConceptKind:
    """Describes and loads concept heads."""

    def describe(self, folder: Path | None) -> ModelInfo:
        """Description of the concept head in `folder`; see `wsikit.models.registry.describe_model`."""
        assert folder is not None  # heads are always folders
        config = read_concept_config(folder)
        check_weights(folder, (WEIGHTS_FILE, OOD_FILE))
        return info_of_concepts(config, head_fingerprint(folder), has_ood=(folder / OOD_FILE).is_file())

    def load(self, folder: Path | None, *, device: Literal["auto", "cpu", "cuda"]) -> PatchModel:
        """The concept head in `folder`; the encoder of its tokens runs on `device`, all else on the CPU."""
        from wsikit.models.concept_head import ConceptHead
        from wsikit.models.ood import OodDetector

        assert folder is not None
        config = read_concept_config(folder)
        arrays = read_arrays(folder / WEIGHTS_FILE)
        path = folder / OOD_FILE
        width = 0 if config.encoder is None else config.encoder.width
        ood = OodDetector.load(path, width=width) if path.is_file() else None
        with weights_of(folder / WEIGHTS_FILE):
            if config.scores == "attention":
                attention_of(config, arrays)  # refused here, and not at the first patch
            return ConceptHead(
                config,
                arrays,
                load_encoder=lambda: encoder_of(config, device),
                ood=ood,
                fingerprint=head_fingerprint(folder),
            )


def encoder_of(config: ConceptHeadConfig, device: str) -> PatchEncoder:
    """The encoder whose tokens a concept head reads.

    Raises
    ------
    ModelError
        There is none of its name, or it has other weights than that of the training.
    """
    from wsikit.encoders.registry import load_encoder

    wanted = config.encoder
    assert wanted is not None
    encoder = load_encoder(wanted.given_as or wanted.name, device=device)
    if wanted.fingerprint and encoder.info.fingerprint != wanted.fingerprint:
        raise ModelError(
            f"model {config.name}: trained on tokens of {wanted.name} with the fingerprint {wanted.fingerprint[:12]}, "
            f"this one has {encoder.info.fingerprint[:12]}: other weights. Give those of the training."
        )
    return encoder


def attention_of(config: ConceptHeadConfig, arrays: Mapping[str, Any]) -> ConceptAttention:
    """The attention of a head, in evaluation mode.

    Raises
    ------
    ModelError
        If its arrays do not fit.
    """
    import torch

    from wsikit.models.concept_attention import ConceptAttention
    from wsikit.models.concept_head import ATTENTION

    state = {
        name.removeprefix(ATTENTION): torch.from_numpy(values.copy())
        for name, values in arrays.items()
        if name.startswith(ATTENTION)
    }
    try:
        module = ConceptAttention(
            len(state["mean"]), state["anchors"], config.criteria.columns, width=config.width, heads=config.heads
        )
        module.load_state_dict(state)
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            f"model {config.name}: the weights of its attention do not fit config.json "
            f"({' '.join(str(error).split())[:200]}); copy the model's folder again."
        ) from error
    return module.eval()


CONCEPT_KIND = ConceptKind()
