"""What captions add to an image branch that sees the slide, on the IDC patches, with features that need no training.

python pipelines/slide_context_idc.py --data idc.zip -o OUT [--folds 0 1]

The image branch reads features of the packaged model's image encoder (trained on synthetic tissue): a projection and a
head, on the patch alone, and with `context: slide`. Captions, numbers, fusion and folds are those of
pipelines/configs/ablate_idc_image_context.yaml, whose encoders are trained, which takes half an hour or more. One seed;
OUT/results.md is the table, OUT/patches.npz holds the patches with their captions, which are measured once.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from wsikit.models.io import load_model
from wsikit.models.mmlnb import MMLNB
from wsikit.models.model_folder import EncoderRecord
from wsikit.models.stored_features import StoredFeatures
from wsikit.training.ablation_config import AblationConfig
from wsikit.training.bootstrap import Sample, draw_groups, quantiles
from wsikit.training.branches import train_cross_fitted
from wsikit.training.config import FeatureBranch, read_config
from wsikit.training.data import PatchSet
from wsikit.training.factory import build_model, load_data
from wsikit.training.forward import image_features, outputs_of, softmax
from wsikit.training.heads.join import standardise
from wsikit.training.rivals import mean_of_logits
from wsikit.training.splits import TEST, folds
from wsikit.training.texts import with_captions
from wsikit.training.unimodal import image_probs, train_image_branch

logger = logging.getLogger("slide_context_idc")

CONFIG = Path(__file__).parent / "configs" / "ablate_idc_image_context.yaml"
ENCODER = "phantom-mmlnb"
PROJECT, INNER_FOLDS, DRAWS = 64, 3, 1000
ALONE, SLIDE, TEXT = "image, patch alone", "image, slide context", "text"
MEAN_ALONE, MEAN, ROBUST, SILENT = (
    "mean of logits: patch alone + text",
    "mean of logits: slide context + text",
    "PRMF robust over slide context",
    "PRMF robust over slide context, no captions",
)
PAIRS = ((SLIDE, ALONE), (MEAN_ALONE, ALONE), (MEAN, SLIDE), (ROBUST, SLIDE), (ROBUST, MEAN), (MEAN, MEAN_ALONE))

Probs = npt.NDArray[np.float64]


def patches_of(config: AblationConfig, path: Path) -> PatchSet:
    """The patches with captions, their numbers and these of the field; measured once."""
    if not path.is_file():
        loaded = load_data(config).prepared
        assert config.numbers is not None
        assert config.numbers.field_um is not None
        described = with_captions(loaded.patches, config.captions, mpp=loaded.mpp, numbers=True)
        described.with_field(config.numbers.field_um).save(path)
    return PatchSet.load(path)


def untrained(config: AblationConfig, encoder: EncoderRecord, training: PatchSet, context: str | None) -> MMLNB:
    """A model on features, standardised on the training patches."""
    image = FeatureBranch(features=encoder.name, project=PROJECT, context=context)
    assert config.data.mpp is not None
    model = build_model(config.model_copy(update={"image": image}), ("",), mpp=config.data.mpp, encoder=encoder)
    assert isinstance(model.image, StoredFeatures)
    standardise(model.image, training)
    return model


def predict(config: AblationConfig, encoder: EncoderRecord, training: PatchSet, test: PatchSet) -> dict[str, Probs]:
    """Probabilities of all arms for the test patches of one fold."""
    alone = untrained(config, encoder, training, None)
    train_image_branch(alone, training, config.training)

    def in_slide(seed: int) -> MMLNB:
        settings = config.training.model_copy(update={"seed": seed})
        return untrained(config.model_copy(update={"training": settings}), encoder, training, "slide")

    model, _, fitted = train_cross_fitted(in_slide, training, config, message=logger.info)
    field = model.config.prmf.field
    logger.info("fusion: %s, %s the field", fitted.kept, "without" if field is None else "with")
    found, silent = outputs_of(model, test), outputs_of(model, test.with_captions([""] * len(test)))
    probs = {ALONE: image_probs(alone, test), SLIDE: softmax(found.logits_image), TEXT: softmax(found.logits_text)}
    probs |= {MEAN_ALONE: mean_of_logits(probs[ALONE], probs[TEXT]), MEAN: mean_of_logits(probs[SLIDE], probs[TEXT])}
    return probs | {ROBUST: found.probs, SILENT: silent.probs}


def report(probs: dict[str, Probs], test: PatchSet) -> str:
    """AUC and balanced accuracy of each arm, and differences, with intervals over patients."""
    groups = len(np.unique(test.groups))
    weights = np.concatenate([np.ones((1, groups)), draw_groups(groups, draws=DRAWS, seed=0)])
    values = {
        arm: Sample(test.labels, one, test.groups, n_ordinal=0).figures(weights).values for arm, one in probs.items()
    }

    def shown(name: str, arm: str, minus: str | None = None) -> str:
        drawn = values[arm][name] if minus is None else 100 * (values[arm][name] - values[minus][name])
        low, high = quantiles(drawn[1:]) or (np.nan, np.nan)
        form = "{:.4f} [{:.3f}, {:.3f}]" if minus is None else "{:+.2f} [{:+.2f}, {:+.2f}]"
        return form.format(drawn[0], low, high)

    lines = [f"{len(test)} test patches of {groups} patients, one seed.", ""]
    lines += ["| arm | AUC | balanced accuracy |", "|---|---|---|"]
    lines += [f"| {arm} | {shown('auc', arm)} | {shown('balanced_accuracy', arm)} |" for arm in probs]
    lines += ["", "| difference, points | AUC | balanced accuracy |", "|---|---|---|"]
    lines += [f"| {a}, minus {b} | {shown('auc', a, b)} | {shown('balanced_accuracy', a, b)} |" for a, b in PAIRS]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="idc.zip")
    parser.add_argument("-o", "--out", required=True, type=Path)
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(5)), help="of the five folds; default: all")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("wsikit.training").setLevel(logging.WARNING)
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    config = read_config(CONFIG, AblationConfig, data=given.data)
    assert config.cross_fit is not None
    config = config.model_copy(update={"cross_fit": config.cross_fit.model_copy(update={"folds": INNER_FOLDS})})
    data = patches_of(config, given.out / "patches.npz")
    source = load_model(ENCODER)
    assert source.fingerprint is not None
    encoder = EncoderRecord(name=ENCODER, width=source.image.width, fingerprint=source.fingerprint)
    data = replace(data, images=image_features(source, data.images))  # type: ignore[arg-type]
    parts = [fold[TEST] for fold in folds(data.labels, data.groups, config.folds.k, seed=config.folds.seed)]
    probs: list[dict[str, Probs]] = []
    for fold in given.folds:
        rest = np.setdiff1d(np.arange(len(data)), parts[fold])
        probs.append(predict(config, encoder, data.select(rest), data.select(parts[fold])))
        logger.info("fold %d", fold)
    tested = data.select(np.concatenate([parts[fold] for fold in given.folds]))
    text = report({arm: np.concatenate([one[arm] for one in probs]) for arm in probs[0]}, tested)
    (given.out / "results.md").write_text(text, encoding="utf-8")
    logger.info("\n%s", text)


if __name__ == "__main__":
    main()
