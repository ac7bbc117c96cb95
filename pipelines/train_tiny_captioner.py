"""Train the packaged generative captioner from scratch: python pipelines/train_tiny_captioner.py -o OUT

A Qwen2.5-VL of under a million weights is trained on patches of synthetic tissue to state what `morphometry` measures
on them, in words without numbers. Writes OUT/<name> with weights, tokenizer, card and metrics (packaged as
wsikit/captions/zoo/<name>). With --real DATA, its captions of real patches are also compared with measurement; with
--again, an existing model is only evaluated again and gets a new card.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import platform
import sys
import tempfile
import time
import zipfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict

import wsikit
from wsikit.captions import FACTS, Morphometry, phrase
from wsikit.captions.vlm import load_vlm
from wsikit.captions.vlm.chat import Chat
from wsikit.captions.vlm.files import RECORD_FILE, model_fingerprint
from wsikit.captions.vlm.loading import Place
from wsikit.captions.vlm.tiny import TinySize, build_tiny, save_tiny
from wsikit.facts import TONE
from wsikit.phantom.patches import phantom_patches
from wsikit.training.captioner.card import captioner_card
from wsikit.training.captioner.finetune import CARD_FILE, METRICS_FILE
from wsikit.training.captioner.scores import score_captions, score_terms
from wsikit.training.captioner.settings import FinetuneSettings
from wsikit.training.captioner.trainer import Examples, fit
from wsikit.training.captioner.words import without_numbers

logger = logging.getLogger("train_tiny_captioner")

HERE = Path(__file__).parent
COMMAND = "python pipelines/train_tiny_captioner.py -o OUT"
CPU = Place(torch.device("cpu"), torch.float32)
COUNTED = [name for name in FACTS if name != "nuclei" and name not in TONE]
"""Facts for pretraining the vision part, as square roots; colour is not included."""
REAL_MPP = 0.688


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Data(_Strict):
    """Synthetic slides and number of patches of each."""

    mpp: float
    patch_px: int
    per_slide: int
    train_seeds: tuple[int, int]
    validation_seeds: tuple[int, int]
    test_seeds: tuple[int, int]


class Eyes(_Strict):
    """The first stage: pretraining of the vision part."""

    epochs: int
    lr: float


class Settings(_Strict):
    """The YAML file."""

    name: str
    threads: int
    workers: int
    prompt: str
    data: Data
    size: TinySize
    eyes: Eyes
    training: FinetuneSettings


@dataclass(frozen=True)
class Patches:
    """Patches with their measurements."""

    images: npt.NDArray[np.uint8]
    """(N, P, P, 3)"""
    captions: tuple[str, ...]
    facts: npt.NDArray[np.float32]
    """(N, len(COUNTED)) square roots; NaN where not measured."""

    def examples(self) -> Examples:
        return Examples(lambda rows: [self.images[row] for row in rows], self.captions)


def measured(images: npt.NDArray[np.uint8], mpp: float) -> Patches:
    """Measured captions, without colour, and facts."""
    found = [caption.facts for caption in Morphometry().caption(images, mpp=mpp)]
    texts = [phrase({name: value for name, value in facts.items() if name not in TONE}, mpp) for facts in found]
    values = np.array([[facts.get(name, np.nan) for name in COUNTED] for facts in found], np.float32)
    return Patches(images, tuple(map(without_numbers, texts)), np.sqrt(values))


def slide_patches(seed: int, data: Data) -> Patches:
    """Patches of one synthetic slide, borderline ones included."""
    patches = phantom_patches([seed], data.per_slide, mpp=data.mpp, patch_px=data.patch_px, borderline=True)
    return measured(np.stack([patch.image for patch in patches]), data.mpp)


def make_patches(seeds: tuple[int, int], data: Data, workers: int) -> Patches:
    with ProcessPoolExecutor(workers) as pool:
        slides = list(pool.map(partial(slide_patches, data=data), range(*seeds)))
    return Patches(
        np.concatenate([slide.images for slide in slides]),
        tuple(caption for slide in slides for caption in slide.captions),
        np.concatenate([slide.facts for slide in slides]),
    )


def pretrain_vision(model: Any, chat: Chat, patches: Patches, eyes: Eyes, batch: int, seed: int) -> float:
    """Pretrain the vision part on the measured facts, with a linear head that is then discarded.

    Most words are the most common grade; numbers are a more informative target for the first layers.

    Returns
    -------
    float
        Fraction of the facts' variance left unexplained, over the last epoch.
    """
    rng = np.random.default_rng(seed)
    facts = patches.facts[:, ~np.isnan(patches.facts).all(axis=0)]
    target = torch.from_numpy((facts - np.nanmean(facts, axis=0)) / (np.nanstd(facts, axis=0) + 1e-3))
    width = model.config.vision_config.out_hidden_size
    head = torch.nn.Linear(2 * width, target.shape[1])
    learned = [*model.model.visual.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(learned, lr=eyes.lr, weight_decay=0.02)
    steps = eyes.epochs * (len(target) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, eyes.lr, total_steps=steps, pct_start=0.05)
    model.train()
    losses: list[float] = []
    for _ in range(eyes.epochs):
        losses = []
        for rows in np.split(rng.permutation(len(target))[: len(target) // batch * batch], len(target) // batch):
            pictures = [turned(patches.images[row], int(rng.integers(8))) for row in rows]
            inputs = chat.inputs(pictures)
            seen = model.model.visual(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"]).pooler_output
            seen = seen.reshape(batch, -1, width)  # (B, tokens, width)
            guess = head(torch.cat([seen.mean(dim=1), seen.std(dim=1)], dim=1))
            known = ~target[rows].isnan()
            loss = (guess - target[rows])[known].square().mean()
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimiser.step()
            schedule.step()
            losses.append(loss.item())
        logger.info("eyes: unexplained %.3f", np.mean(losses))
    return float(np.mean(losses))


def turned(image: npt.NDArray[np.uint8], way: int) -> npt.NDArray[np.uint8]:
    rotated = np.rot90(image, way % 4)
    return np.ascontiguousarray(rotated[:, ::-1] if way >= 4 else rotated)


def real_patches(data: Path) -> Patches:
    """The 224-px spots of her2st.zip, 0.688 µm/px; measured like any other."""
    with zipfile.ZipFile(data / "patches" / "her2st.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith((".png", ".jpg", ".jpeg")))
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
    return measured(np.stack(images), REAL_MPP)


def patches_per_second(captioner: Any, images: npt.NDArray[np.uint8], mpp: float) -> float:
    """On one thread; a model this small does not gain from more."""
    torch.set_num_threads(1)
    captioner.caption(images[:32], mpp=mpp)
    begun = time.perf_counter()
    captioner.caption(images, mpp=mpp)
    return round(len(images) / (time.perf_counter() - begun), 1)


def write_folder(model: Any, processor: Any, settings: Settings, folder: Path) -> None:
    """Weights in half precision (float32 again when loaded on a CPU), processor, and prompt settings."""
    save_tiny(model.to(torch.float16), processor, folder)
    record = {
        "format": 1,
        "kind": "captioner",
        "chat": {
            "prompt": settings.prompt,
            "image_px": settings.size.image_px,
            "max_new_tokens": settings.training.max_new_tokens,
        },
        "mpp": settings.data.mpp * settings.data.patch_px / settings.size.image_px,
    }
    (folder / RECORD_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def train(settings: Settings, training: Patches, validation: Patches, folder: Path) -> dict[str, Any]:
    """Pretrain the vision part, train captions, write the folder; return the metrics of training."""
    seed, begun = settings.training.seed, time.perf_counter()
    model, processor = build_tiny([*training.captions, *[settings.prompt] * 50], settings.size, seed=seed)
    chat = Chat(processor, settings.prompt, settings.size.image_px)
    torch.manual_seed(seed)
    unexplained = pretrain_vision(model, chat, training, settings.eyes, settings.training.batch, seed)
    looked = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        fitted = fit(
            model,
            chat,
            CPU,
            training=training.examples(),
            validation=validation.examples(),
            settings=settings.training,
            folder=Path(work),
            on_epoch=lambda share, figures: logger.info("%.0f %% %s", 100 * share, figures),
        )
    write_folder(model, processor, settings, folder)
    return {
        "unexplained": unexplained,
        "epochs": [asdict(epoch) for epoch in fitted.epochs],
        "best_epoch": fitted.best.epoch,
        "seconds": {"eyes": round(looked - begun), "captions": round(time.perf_counter() - looked)},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=HERE / "configs" / "train_tiny_captioner.yaml")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="Output folder; the model is written to OUT/<name>."
    )
    parser.add_argument(
        "--real", type=Path, metavar="DATA", help="Folder with patches/her2st.zip, to be evaluated too."
    )
    parser.add_argument("--again", action="store_true", help="Do not train: evaluate the model in OUT/<name>.")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    settings = Settings.model_validate(yaml.safe_load(given.config.read_text(encoding="utf-8")))
    folder = given.out / settings.name
    if folder.exists() != given.again:
        parser.error(f"{folder} is {'not empty; give another folder' if folder.exists() else 'missing'}")
    torch.set_num_threads(settings.threads)

    begun, data = time.perf_counter(), settings.data
    training, validation, test = (
        make_patches(seeds, data, settings.workers)
        for seeds in (data.train_seeds, data.validation_seeds, data.test_seeds)
    )
    made = time.perf_counter() - begun
    logger.info("%d training, %d test patches in %.0f s", len(training.images), len(test.images), made)
    if given.again:
        known = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        history = {name: known[name] for name in ("unexplained", "epochs", "best_epoch", "seconds")}
    else:
        history = train(settings, training, validation, folder)
    history["seconds"]["patches"] = round(made)
    metrics = history | measure(folder, settings, training, test, given.real)
    (folder / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    (folder / CARD_FILE).write_text(captioner_card(metrics), encoding="utf-8")
    size = sum(path.stat().st_size for path in folder.iterdir())
    logger.info("%s: %.2f MB, fingerprint %s", folder, size / 1e6, model_fingerprint(folder))
    return 0


def measure(folder: Path, settings: Settings, training: Patches, test: Patches, real: Path | None) -> dict[str, Any]:
    """Metrics of the saved captioner, loaded again."""
    captioner = load_vlm(folder, device="cpu", batch=32)
    said = [caption.text for caption in captioner.caption(test.images, mpp=settings.data.mpp)]
    examples = [{"measured": test.captions[row], "generated": said[row]} for row in range(0, len(said), len(said) // 6)]
    metrics: dict[str, Any] = {
        "command": COMMAND,
        "settings": settings.model_dump(mode="json"),
        "parameters": sum(p.numel() for p in captioner.model.parameters()),
        "patches": {"training": len(training.images), "test": len(test.images)},
        "phantom": [asdict(score) for score in score_captions(test.captions, said, training.captions)],
        "phantom_terms": [asdict(score) for score in score_terms(test.captions, said)],
        "decided_alone": captioner.n_alone,
        "examples": examples,
        "patches_per_second": patches_per_second(captioner, test.images[:320], settings.data.mpp),
        "versions": {
            "python": platform.python_version(),
            "wsikit": wsikit.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
    if real is not None:
        patches = real_patches(real)
        words = [caption.text for caption in captioner.caption(patches.images, mpp=REAL_MPP)]
        metrics["real_mpp"] = REAL_MPP
        metrics["real"] = [asdict(score) for score in score_captions(patches.captions, words, training.captions)]
        metrics["real_terms"] = [asdict(score) for score in score_terms(patches.captions, words)]
        metrics["real_distinct"] = {"generated": len(set(words)), "measured": len(set(patches.captions))}
        metrics["real_examples"] = [
            {"measured": patches.captions[row], "generated": words[row]}
            for row in range(0, len(words), len(words) // 3)
        ]
    return metrics


if __name__ == "__main__":
    sys.exit(main())
