"""`wsikit train` with `architecture: afloc`: from a configuration to a model folder and metrics.

OUT holds config.yaml, splits.json and, during training, checkpoints/; at the end model/ and metrics.json.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from wsikit.errors import RequestError
from wsikit.models.afloc import AFLoc
from wsikit.models.afloc_config import AflocConfig
from wsikit.models.config import METRICS_FILE, FeatureBranchConfig, ImageEncoderConfig, TextEncoderConfig
from wsikit.models.encoders import ImageEncoder, text_config_of
from wsikit.models.io import load_model, save_model
from wsikit.models.model_folder import EncoderRecord, joined_notice
from wsikit.models.stored_features import StoredFeatures
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.store.atomic import write_json
from wsikit.training.afloc.card import afloc_card
from wsikit.training.afloc.config import AflocTrainConfig
from wsikit.training.afloc.detector import fit_detector
from wsikit.training.afloc.feature_data import feature_patches
from wsikit.training.afloc.retrieval import term_figures
from wsikit.training.afloc.statements import Statements, statements_of
from wsikit.training.afloc.trainer import AflocEpoch, train_afloc
from wsikit.training.config import FeatureBranch
from wsikit.training.data import PatchSet, Prepared, patch_set
from wsikit.training.datasets.configured import mpp_of, table_of
from wsikit.training.factory import image_config, image_weights, on_this_disk
from wsikit.training.heads.join import standardise
from wsikit.training.run import CHECKPOINTS, versions
from wsikit.training.run_record import check_out, split_line, split_of
from wsikit.training.splits import PARTS, TEST, TRAIN, VALIDATION
from wsikit.training.texts import with_captions


@dataclass(frozen=True)
class AflocCallbacks:
    """Functions that a run calls to report its progress."""

    message: Callable[[str], None] = lambda text: None
    epoch: Callable[[AflocEpoch], None] = lambda record: None
    captioned: Callable[[int, int], None] = lambda done, total: None


def run_afloc_training(
    config: AflocTrainConfig,
    out: Path,
    *,
    resume: bool = False,
    device: str = "auto",
    callbacks: AflocCallbacks | None = None,
) -> dict[str, Any]:
    """Train, then measure once on the test part; return the metrics as written.

    The test part is not used before weights and epoch are fixed.

    Raises
    ------
    RequestError
        If `out` holds a finished run, or an unfinished one and `resume` is False, or no patch has a caption.
    """
    callbacks = callbacks or AflocCallbacks()
    check_out(out, resume)
    words, mpp, patches, encoder = _data(config, callbacks, device)
    out.mkdir(parents=True, exist_ok=True)
    parts, _ = split_of(config, patches, out)
    training, validation, test = (patches.select(parts[name]) for name in (TRAIN, VALIDATION, TEST))
    closed = config.training.closed_world
    statements = statements_of(training.captions, closed_world=closed, phrases=config.phrases)
    callbacks.message(
        split_line(config.data.group, patches, parts)
        + f"; {len(statements.texts)} statements of {len(statements.terms)} terms"
    )  # fmt: skip
    place = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    model = build_afloc(config, statements, mpp=mpp, encoder=encoder)
    if isinstance(model.image, StoredFeatures):
        standardise(model.image, training)
    model.to(place)
    begun = time.perf_counter()
    epochs = train_afloc(
        model,
        training,
        statements,
        config.training,
        validation=validation,
        of_validation=statements_of(validation.captions, closed_world=closed, phrases=config.phrases),
        on_epoch=callbacks.epoch,
        checkpoints=out / CHECKPOINTS,
        resume=resume,
    )
    fault = fit_detector(model, training, validation)
    if fault:
        callbacks.message(fault)
    metrics = {
        "settings": _without_places(config),
        "data": words,
        "split": {name: {"n": len(parts[name]), "groups": len(set(patches.groups[parts[name]]))} for name in PARTS},
        "parameters": sum(p.numel() for p in model.parameters()),
        "statements": len(statements.texts),
        "terms": list(statements.terms),
        "epochs": [asdict(epoch) for epoch in epochs],
        "kept_epoch": next(epoch.epoch for epoch in epochs if epoch.kept),
        "seconds": round(time.perf_counter() - begun, 1),
        "detector": fault or "fitted to the training part, limit from the validation part",
        "test": term_figures(model, test, closed_world=closed),
        "versions": versions(),
    }
    write_json(out / METRICS_FILE, metrics)
    save_model(model.cpu(), out / "model", card=afloc_card(model.config, metrics), metrics=metrics)
    shutil.rmtree(out / CHECKPOINTS)  # written by this run, and no longer needed
    return metrics


def _data(
    config: AflocTrainConfig, callbacks: AflocCallbacks, device: str
) -> tuple[str, float, PatchSet, EncoderRecord | None]:
    """What the data are in words, µm/px, the patches, and the encoder of their features."""
    if not isinstance(config.image, FeatureBranch):
        prepared, patches = afloc_patches(config, callbacks)
        return prepared.words(), prepared.mpp, patches, None
    described = afloc_patches(config, callbacks)[1] if config.captions.source == "captioner" else None
    patches, encoder, found = feature_patches(config, described=described, device=device)
    callbacks.message(found.words)
    return found.words, found.mpp, patches, encoder


def afloc_patches(config: AflocTrainConfig, callbacks: AflocCallbacks) -> tuple[Prepared, PatchSet]:
    """The patches with captions. Classes in the source are not read: nothing is learnt from labels."""
    data = config.data
    table = table_of(data, needs_class=False)
    table = replace(table, classes=("",) * len(table))
    prepared = patch_set(
        table, ("",), patch_px=data.patch_px, mpp=mpp_of(table, data), group=data.group, odd_sizes=data.odd_sizes
    )
    callbacks.message(prepared.words())
    total = len(prepared.patches)
    patches = with_captions(
        prepared.patches,
        config.captions,
        mpp=prepared.mpp,
        on_done=lambda done: callbacks.captioned(done, total),
    )
    if not any(caption.strip() for caption in patches.captions):
        raise RequestError(
            f"captions: none of the {total} patches has one (source {config.captions.source}). Set a captioner or a "
            "column."
        )
    return prepared, patches


def build_afloc(
    config: AflocTrainConfig, statements: Statements, *, mpp: float, encoder: EncoderRecord | None = None
) -> AFLoc:
    """The untrained model, with pretrained encoders if the configuration gives any. Equal seeds give equal weights.

    `encoder`: of the features that it reads, if it reads features.
    """
    text, folder = config.text, None
    if text.pretrained is not None:
        folder = on_this_disk(text.pretrained)
        tokenizer = CaptionTokenizer.load(folder, max_tokens=text.max_tokens)
        written = text_config_of(folder)
    else:
        assert text.model_type is not None
        words = [*statements.texts, *(report for report in statements.reports if report)]
        tokenizer = CaptionTokenizer.train(words, vocabulary=text.vocabulary, max_tokens=text.max_tokens)
        usual = {"max_position_embeddings": text.max_tokens + 2}
        options = usual | text.options | {"vocab_size": tokenizer.vocabulary}
        written = TextEncoderConfig(model_type=text.model_type, options=options)
    torch.manual_seed(config.training.seed)
    start = None if config.start is None else load_model(config.start)
    branch, image = config.image, image_config(config.image, encoder)
    if start is not None and start.config.image != image:
        raise RequestError(
            f"start: the image encoder of {config.start} is {start.config.image.model_dump()}; image says "
            f"{image.model_dump()}. Give the same settings."
        )
    captions = config.captions
    model = AFLoc(
        AflocConfig(
            name=config.name,
            version=config.version,
            mpp=round(mpp, 6),
            patch_px=config.data.patch_px,
            stain=config.data.stain,
            captioner=captions.captioner or captions.source,
            text_max_tokens=text.max_tokens,
            width=config.training.width,
            image=image,
            image_width=_width(image, config.data.patch_px),
            text=written,
            terms=statements.terms,
            competitors=config.competitors,
            licence=config.licence,
            notice=joined_notice(config.notice, encoder),
        ),
        tokenizer,
    )
    if folder is not None:
        model.text.load_weights(folder)
    if start is not None:
        model.image.load_state_dict(start.image.state_dict())
    elif branch.weights is not None and isinstance(model.image, ImageEncoder):
        model.image.load_weights(image_weights(branch.weights))
    return model


def _width(image: ImageEncoderConfig | FeatureBranchConfig, patch_px: int) -> int:
    if isinstance(image, FeatureBranchConfig):
        return image.project
    return ImageEncoder(image, patch_px=patch_px, plain=True).width


def _without_places(config: AflocTrainConfig) -> dict[str, Any]:
    """The configuration for the model's folder: file names instead of paths, as the model may be shared."""

    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: bare(inner) for key, inner in value.items()}
        if isinstance(value, str) and ("/" in value or "\\" in value) and Path(value).exists():
            return Path(value).name
        return value

    record: dict[str, Any] = bare(config.model_dump(mode="json"))
    return record
