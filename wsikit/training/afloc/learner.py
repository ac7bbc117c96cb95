"""AFLoc with its losses, in the form of transformers' Trainer: rows in, loss out. Draws are a function of the seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from wsikit.errors import RequestError
from wsikit.models.afloc import AFLoc
from wsikit.models.afloc_losses import contrast, equal_texts, gathered, global_scores, local_scores, published_loss
from wsikit.training.afloc.settings import LEVELS, AflocSettings
from wsikit.training.afloc.statements import NEGATIONS, TEMPLATES, Statements, names_of
from wsikit.training.augment import jitter_stain, turn
from wsikit.training.data import PatchSet

Rows = npt.NDArray[np.int64]
FORMS = 4
"""Phrases per term and step at the level of presence: texts cost little next to images."""


class Learner(nn.Module):
    """The model with its data and losses. Row i of `neighbours`, int64 (N, m), is the bag of patch i, itself first."""

    queue: Tensor

    def __init__(
        self, model: AFLoc, data: PatchSet, statements: Statements, settings: AflocSettings, neighbours: Rows
    ) -> None:
        super().__init__()
        self.model, self.settings = model, settings
        self._data, self._statements, self._neighbours = data, statements, neighbours
        self._members = [np.flatnonzero(statements.groups == group) for group in np.unique(statements.groups)]
        self.register_buffer("queue", torch.zeros(0, settings.width), persistent=False)
        self._queued = np.zeros(0, dtype=np.int64)
        if not settings.temperatures:
            model.heads.log_temperatures.requires_grad_(False)
        self._frozen = [_child(model, name) for name in settings.freeze]
        self._frozen += [part for name, part in model.parts().items() if settings.lr[name] == 0]
        for part in self._frozen:
            part.requires_grad_(False)
        self.epoch = 0
        self.sums = dict.fromkeys(("loss", *LEVELS), 0.0)
        self.steps = 0

    def begin(self, epoch: int) -> None:
        """Prepare an epoch: its draws depend on the seed and its number alone."""
        self.epoch, self.steps = epoch, 0
        self.sums = dict.fromkeys(self.sums, 0.0)
        self.queue, self._queued = self.queue[:0], self._queued[:0]

    def train(self, mode: bool = True) -> Learner:
        super().train(mode)
        for part in self._frozen:
            part.eval()  # dropout adds no noise, batch statistics are fixed
        return self

    def forward(self, rows: Tensor) -> dict[str, Tensor]:
        if self.steps == 0:  # not in `begin`: a resumed Trainer restores torch's random state after it
            torch.manual_seed(self.settings.seed * 1_000_003 + self.epoch)
        bags = self._neighbours[rows.cpu().numpy()]  # (B, m)
        rng = np.random.default_rng([self.settings.seed, self.epoch, int(rows[0]), int(rows[-1])])
        losses = self.losses(bags, rng)
        loss: Tensor = sum((self.settings.weights[name] * value for name, value in losses.items()), torch.zeros(()))
        for name, value in {"loss": loss, **losses}.items():
            self.sums[name] += float(value.detach())
        self.steps += 1
        return {"loss": loss}

    def losses(self, bags: Rows, rng: np.random.Generator) -> dict[str, Tensor]:
        """Loss of each level for bags of patches (B, m), rows of the patch set."""
        wanted = {name for name, weight in self.settings.weights.items() if weight > 0}
        flat = bags.ravel()
        images = self._images(flat, rng)
        cells, features = self.model.image.map_and_features(images)
        out: dict[str, Tensor] = {}
        if "word" in wanted:
            places = self.model.heads.of_cells(cells.flatten(2).transpose(1, 2))
            out["word"] = self._word(places, flat, rng)
        if "sentence" in wanted:
            out["sentence"] = self._sentence(features, bags, rng)
        if "report" in wanted:
            out["report"] = self._report(features, bags)
        if "presence" in wanted:
            out["presence"] = self._presence(features, flat, rng)
        return out

    def _images(self, rows: Rows, rng: np.random.Generator) -> Tensor:
        device = next(self.model.parameters()).device
        images = turn(torch.from_numpy(np.ascontiguousarray(self._data.images[rows])).to(device), rng)
        if self.settings.stain_scale or self.settings.stain_shift:
            images = jitter_stain(images, rng, scale=self.settings.stain_scale, shift=self.settings.stain_shift)
        return images

    def draw(self, n: int, rows: Rows, rng: np.random.Generator) -> tuple[list[str], npt.NDArray[np.bool_]]:
        """`n` different texts, and of which of all patches each is true, bool (N, n).

        A group of statements is drawn first, so that rare terms are as frequent as common ones. Some texts join two
        statements that are true of one of `rows`; the draw includes the whole list, so any two may be joined.
        """
        holds, texts = self._statements.holds, self._statements.texts
        chosen: dict[str, npt.NDArray[np.bool_]] = {}
        for _ in range(4 * n):
            if len(chosen) == n:
                break
            members = self._members[int(rng.integers(len(self._members)))]
            column = int(members[rng.integers(len(members))])
            text, true_of = texts[column], holds[:, column]
            if rng.random() < self.settings.joined:
                row = int(rows[rng.integers(len(rows))])
                other = int(rng.choice(np.flatnonzero(holds[row]))) if holds[row].any() else column
                if holds[row, column] and other != column:
                    text, true_of = f"{text.rstrip('.')}. {texts[other]}", true_of & holds[:, other]
            chosen.setdefault(text, true_of)
        return list(chosen), np.stack(list(chosen.values()), axis=1)

    def _word(self, places: Tensor, rows: Rows, rng: np.random.Generator) -> Tensor:
        texts, holds = self.draw(self.settings.word_texts, rows, rng)
        words, mask = self.model.words(texts)
        scores = self._local(places, self.model.heads.of_words(words), mask)
        return self._loss(scores, torch.from_numpy(holds[rows]).to(scores.device), "word")

    def _sentence(self, features: Tensor, bags: Rows, rng: np.random.Generator) -> Tensor:
        flat = bags.ravel()
        texts, holds = self.draw(self.settings.texts, flat, rng)
        sentences = self.model.sentences(texts)
        patches = self.model.heads.of_patch(features)  # (B·m, d)
        if self.settings.sentence == "region":
            units = sentences[:, None]
            mask = torch.ones(len(texts), 1, dtype=torch.bool, device=units.device)
            scores = self._local(patches.view(*bags.shape, -1), units, mask)
            return self._loss(scores, torch.from_numpy(holds[bags].any(axis=1)).to(scores.device), "sentence")
        all_rows, all_patches = flat, patches
        if self.settings.queue and len(self.queue):
            all_rows, all_patches = np.concatenate([flat, self._queued]), torch.cat([patches, self.queue])
        if self.settings.queue:
            self.queue = torch.cat([patches.detach(), self.queue])[: self.settings.queue]
            self._queued = np.concatenate([flat, self._queued])[: self.settings.queue]
        positives = torch.from_numpy(holds[all_rows]).to(patches.device)
        return self._loss(global_scores(all_patches, sentences), positives, "sentence")

    def _report(self, features: Tensor, bags: Rows) -> Tensor:
        reports = [report_of([self._statements.reports[row] for row in bag]) for bag in bags]
        known = [n for n, text in enumerate(reports) if text]
        if len(known) < 2:
            return features.sum() * 0.0
        places = self.model.bag(features.view(*bags.shape, -1))[known]
        texts = [reports[n] for n in known]
        encoded = self.model.heads.of_report(self.model.pooled(*self.model.words(texts)))
        if len(known) == len(bags):  # all processes then have equally many
            places, encoded = gathered(places), gathered(encoded)
        scores = global_scores(places, encoded)
        same = equal_texts(texts, texts).to(scores.device)
        if len(scores) != len(texts):
            same = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        return self._loss(scores, same, "report")

    def _presence(self, features: Tensor, rows: Rows, rng: np.random.Generator) -> Tensor:
        """Cross-entropy of "X" against "no X", for each patch and each term whose presence its caption decides."""
        texts, denied = [], []
        for term in self._statements.terms * FORMS:
            names = names_of(term)
            name = names[int(rng.integers(len(names)))]
            texts.append(TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(name))
            denied.append(NEGATIONS[int(rng.integers(len(NEGATIONS)))].format(name))
        named = torch.from_numpy(np.tile(self._statements.named[rows], FORMS)).to(features.device)  # (B·m, FORMS·T)
        known = ~named.isnan()
        if not bool(known.any()):
            return features.sum() * 0.0
        scores = global_scores(self.model.heads.of_patch(features), self.model.sentences([*texts, *denied]))
        logits = self.model.heads.temperature("sentence") * (scores[:, : len(texts)] - scores[:, len(texts) :])
        return functional.binary_cross_entropy_with_logits(logits[known], named[known])

    def _local(self, places: Tensor, units: Tensor, mask: Tensor) -> Tensor:
        if self.settings.published:
            return local_scores(places, units, mask, published=True)
        heads = self.model.heads
        return local_scores(
            places, units, mask, attention=heads.temperature("attention"), aggregation=heads.temperature("aggregation")
        )

    def _loss(self, scores: Tensor, positives: Tensor, level: str) -> Tensor:
        if self.settings.published:
            first = positives.float().argmax(dim=0)  # of each text one image, as if the others were not its own
            known = positives.any(dim=0)
            return published_loss(scores[first[known]][:, known])
        return contrast(self.model.heads.temperature(level) * scores, positives)


def _child(model: AFLoc, name: str) -> nn.Module:
    children = dict(model.image.body.named_children())
    if name not in children:
        raise RequestError(f"training: freeze: the image encoder has no {name!r}; it has {', '.join(children)}.")
    return children[name]


def report_of(captions: list[str]) -> str:
    """The report of a bag: the different captions of its patches, in their order."""
    return " ".join(dict.fromkeys(caption for caption in captions if caption.strip()))
