"""AFLoc with its losses, in the form of transformers' Trainer: rows in, loss out. Draws are a function of the seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from wsikit.errors import RequestError
from wsikit.models.afloc import AFLoc
from wsikit.models.afloc_losses import contrast, gathered, global_scores, local_scores, published_loss, text_codes
from wsikit.models.encoders import ImageEncoder
from wsikit.training.afloc.settings import LEVELS, AflocSettings
from wsikit.training.afloc.statements import NEGATIONS, TEMPLATES, Statements, names_of
from wsikit.training.augment import jitter_stain, turn
from wsikit.training.data import PatchSet
from wsikit.training.degrade import degrade

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

    @property
    def _pace(self) -> float:
        """Share of the degraded copies that take part in this epoch, from 0.5 to 1."""
        return 0.5 + 0.5 * min(1.0, self.epoch / max(1, self.settings.epochs - 1))

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
        copies, of = self._degraded(images, rng)
        followers = None
        if len(of) and self._copies_follow:
            followers, copies, of = (copies, of), copies[:0], of[:0]
        places, features = self.model.cells_and_features(
            torch.cat([images, copies]) if len(of) else images, bags.shape[1]
        )
        n = len(places) - len(of)
        rows = np.concatenate([flat, flat[of]])  # copies that the captions judge are the last ones
        out: dict[str, Tensor] = {}
        if "word" in wanted:
            out["word"] = self._word(places[:n], flat[:, None] if self.model.reads_pixels else bags, rng)
        if "sentence" in wanted:
            out["sentence"] = self._sentence(features, bags if not len(of) else rows[:, None], rng)
        if "report" in wanted:
            out["report"] = self._report(features[: len(flat)], bags)
        if "presence" in wanted:
            out["presence"] = self._presence(features, rows, rng, copies=len(of), followers=followers)
        return out

    @property
    def _copies_follow(self) -> bool:
        """Whether the truth of degraded copies is what the model says of their patches."""
        wanted = self.settings.quality_negatives
        return wanted is not None and wanted.truth == "patch"

    def _images(self, rows: Rows, rng: np.random.Generator) -> Tensor:
        device = next(self.model.parameters()).device
        images = torch.from_numpy(np.ascontiguousarray(self._data.images[rows])).to(device)
        if not self.model.reads_pixels:
            return images  # features are not augmented
        images = turn(images, rng)
        if self.settings.stain_scale or self.settings.stain_shift:
            images = jitter_stain(images, rng, scale=self.settings.stain_scale, shift=self.settings.stain_shift)
        return images

    def _degraded(self, images: Tensor, rng: np.random.Generator) -> tuple[Tensor, Rows]:
        """Degraded copies of some of the images, and of which; none if the settings have none."""
        wanted = self.settings.quality_negatives
        if wanted is None:
            return images[:0], np.zeros(0, dtype=np.int64)
        n = max(1, round(wanted.share * len(images)))
        of = np.sort(rng.permutation(len(images))[:n]).astype(np.int64)
        made = degrade(images[of].cpu().numpy(), rng, kinds=wanted.kinds, mpp=self.model.config.mpp)
        return torch.from_numpy(made).to(images.device), of

    def draw(self, n: int, rows: Rows, rng: np.random.Generator) -> tuple[list[str], npt.NDArray[np.bool_]]:
        """`n` different texts, and of which of all patches each is true, bool (N, n).

        A group of statements is drawn first, so that rare terms are as frequent as common ones. Some texts join two
        statements that are true of one of `rows`; the draw includes the whole list, so any two may be joined.
        """
        texts, columns = self._drawn(n, rows, rng)
        return texts, self._true_of(columns)

    def _drawn(self, n: int, rows: Rows, rng: np.random.Generator) -> tuple[list[str], Rows]:
        """`draw`'s texts, and the two columns of statements of each, equal where it is one statement, int64 (n, 2)."""
        holds, texts = self._statements.holds, self._statements.texts
        chosen: dict[str, tuple[int, int]] = {}
        for _ in range(4 * n):
            if len(chosen) == n:
                break
            members = self._members[int(rng.integers(len(self._members)))]
            column = int(members[rng.integers(len(members))])
            text, pair = texts[column], (column, column)
            if rng.random() < self.settings.joined:
                row = int(rows[rng.integers(len(rows))])
                other = int(rng.choice(np.flatnonzero(holds[row]))) if holds[row].any() else column
                if holds[row, column] and other != column:
                    text, pair = f"{text.rstrip('.')}. {texts[other]}", (column, other)
            chosen.setdefault(text, pair)
        return list(chosen), np.array(list(chosen.values()), dtype=np.int64)

    def _true_of(self, columns: Rows) -> npt.NDArray[np.bool_]:
        """Of which of all patches the texts of `_drawn` are true, bool (N, n)."""
        holds = self._statements.holds
        both: npt.NDArray[np.bool_] = holds[:, columns[:, 0]] & holds[:, columns[:, 1]]
        return both

    def _all(self, values: Tensor) -> Tensor:
        """Rows of all processes; while the validation part is measured, this process's own."""
        return gathered(values) if self.training else values

    def _all_rows(self, rows: Rows) -> Rows:
        device = next(self.model.parameters()).device
        every: Rows = self._all(torch.from_numpy(np.ascontiguousarray(rows)).to(device)).cpu().numpy()
        return every

    def _word(self, places: Tensor, rows: Rows, rng: np.random.Generator) -> Tensor:
        """Words against the places of each image, or of each bag of patches; `rows` (n, k): its patches."""
        texts, columns = self._drawn(self.settings.word_texts, rows.ravel(), rng)
        words, mask = self.model.words(texts)
        units, mask = self._all(self.model.heads.of_words(words)), self._all(mask)
        scores = self._local(self._all(places), units, mask)
        holds = self._true_of(self._all_rows(columns))[self._all_rows(rows)].any(axis=1)
        return self._loss(scores, torch.from_numpy(holds).to(scores.device), "word")

    def _sentence(self, features: Tensor, bags: Rows, rng: np.random.Generator) -> Tensor:
        texts, columns = self._drawn(self.settings.texts, bags.ravel(), rng)
        sentences = self._all(self.model.sentences(texts))
        holds = self._true_of(self._all_rows(columns))
        patches, bags = self._all(self.model.heads.of_patch(features)), self._all_rows(bags)  # (B·m, d), (B, m)
        if self.settings.sentence == "region":
            units = sentences[:, None]
            mask = torch.ones(len(units), 1, dtype=torch.bool, device=units.device)
            scores = self._local(patches.view(*bags.shape, -1), units, mask)
            return self._loss(scores, torch.from_numpy(holds[bags].any(axis=1)).to(scores.device), "sentence")
        flat = bags.ravel()
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
        places = self.model.bag(features.view(*bags.shape, -1))[known]
        texts = [reports[n] for n in known]
        encoded = places * 0.0
        if texts:
            encoded = self.model.heads.of_report(self.model.pooled(*self.model.words(texts)))
        places, encoded = self._all(places), self._all(encoded)  # processes may have unequal numbers of reports
        codes = self._all(text_codes(texts).to(features.device))
        if len(places) < 2:
            return (places.sum() + encoded.sum() + features.sum()) * 0.0
        return self._loss(global_scores(places, encoded), codes[:, None] == codes[None, :], "report")

    def _presence(
        self,
        features: Tensor,
        rows: Rows,
        rng: np.random.Generator,
        *,
        copies: int = 0,
        followers: tuple[Tensor, Rows] | None = None,
    ) -> Tensor:
        """Cross-entropy of "X" against "no X", for each patch and each term whose presence its caption decides; and of
        a phrase of the configuration against its opposite. The last `copies` rows are degraded copies that are judged
        by their captions; `followers`, images and the rows of their patches, are to answer as these do."""
        texts, denied = [], []
        for term in self._statements.terms * FORMS:
            names = names_of(term)
            name = names[int(rng.integers(len(names)))]
            texts.append(TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(name))
            denied.append(NEGATIONS[int(rng.integers(len(NEGATIONS)))].format(name))
        asked = [number for number, phrase in enumerate(self._statements.phrases) if phrase.deny]
        for number in asked * FORMS:
            phrase = self._statements.phrases[number]
            template = TEMPLATES[int(rng.integers(len(TEMPLATES)))]
            texts.append(template.format(_some(phrase.say, rng)))
            denied.append(template.format(_some(phrase.deny, rng)))
        named = np.tile(self._statements.named[rows], FORMS)  # (B·m, FORMS·T)
        if asked:
            named = np.concatenate([named, np.tile(self._statements.answered[rows][:, asked], FORMS)], axis=1)
        truth = torch.from_numpy(named).to(features.device)
        known = ~truth.isnan()
        if not bool(known.any()):
            return features.sum() * 0.0
        sentences, temperature = self.model.sentences([*texts, *denied]), self.model.heads.temperature("sentence")
        logits = temperature * self._leanings(features, sentences)
        if followers is not None:
            clean = functional.binary_cross_entropy_with_logits(logits[known], truth[known])
            return clean + self._following(*followers, logits.detach(), sentences.detach(), temperature.detach())
        if not copies or self.settings.quality_negatives is None or not self.settings.quality_negatives.self_paced:
            return functional.binary_cross_entropy_with_logits(logits[known], truth[known])
        losses = functional.binary_cross_entropy_with_logits(logits, truth.nan_to_num(), reduction="none")
        kept = known & paced((losses * known).sum(dim=1) / known.sum(dim=1).clamp(min=1), copies, self._pace)[:, None]
        return losses[kept].mean()

    def _leanings(self, features: Tensor, sentences: Tensor) -> Tensor:
        """How much nearer each patch is to each text than to its denial, the second half of `sentences`: (B, T / 2)."""
        scores = global_scores(self.model.heads.of_patch(features), sentences)
        n = len(sentences) // 2
        return scores[:, :n] - scores[:, n:]

    def _following(self, copies: Tensor, of: Rows, logits: Tensor, sentences: Tensor, temperature: Tensor) -> Tensor:
        """Cross-entropy of the answers of degraded copies against those of their patches, rows `of` of `logits`."""
        wanted = self.settings.quality_negatives
        assert wanted is not None
        with normalised_as_in_use(self.model.image):
            features = self.model.image(copies)
        given = temperature * self._leanings(features, sentences)
        losses = functional.binary_cross_entropy_with_logits(given, logits[of].sigmoid(), reduction="none").mean(dim=1)
        if wanted.self_paced:
            losses = losses[paced(losses, len(losses), self._pace)]
        return wanted.weight * losses.mean()

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


@contextmanager
def normalised_as_in_use(model: nn.Module) -> Iterator[None]:
    """Layers of batch normalisation use their running statistics, as in use, and do not change them: degraded copies
    then leave no trace in the statistics of the clean patches (cf. arXiv 1911.09665)."""
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm) and layer.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()


def paced(losses: Tensor, copies: int, share: float) -> Tensor:
    """Which rows take part, bool (B,): all but the last `copies`, and of these the share whose losses are least.

    >>> paced(torch.tensor([9.0, 3.0, 1.0, 2.0, 4.0]), 4, 0.5).tolist()
    [True, False, True, True, False]
    """
    kept = torch.ones(len(losses), dtype=torch.bool, device=losses.device)
    of_copies = losses.detach()[-copies:]
    easiest = max(1, round(share * copies))
    kept[-copies:] = of_copies <= of_copies.sort().values[easiest - 1]
    return kept


def _child(model: AFLoc, name: str) -> nn.Module:
    children = dict(model.image.body.named_children()) if isinstance(model.image, ImageEncoder) else {}
    if name not in children:
        raise RequestError(
            f"training: freeze: the image encoder has no {name!r}; it has {', '.join(children) or 'none'}."
        )
    return children[name]


def _some(texts: tuple[str, ...], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]


def report_of(captions: list[str]) -> str:
    """The report of a bag: the different captions of its patches, in their order."""
    return " ".join(dict.fromkeys(caption for caption in captions if caption.strip()))
