"""AFLoc: images and texts in one space, aligned at three levels, so that a text finds its places in a slide.

| level | of the text | of the image |
|---|---|---|
| word | words of a sentence | cells of a patch's feature map |
| sentence | a sentence | a patch, or the patches of a region |
| report | the whole text | a bag of patches: a region or a slide |

Patches are uint8 (B, H, W, 3) RGB, or stored features of a frozen encoder, float (B, D). The losses are those of
`wsikit.models.afloc_losses`. For prediction, the sentence level is used: a prompt is a sentence, and it is compared
with patches by the cosine, as in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from wsikit.errors import ModelError, RequestError
from wsikit.models.afloc_config import AflocConfig
from wsikit.models.config import FeatureBranchConfig
from wsikit.models.encoders import ImageEncoder, TextEncoder
from wsikit.models.ood import OodDetector
from wsikit.models.stored_features import StoredFeatures
from wsikit.models.tokenizer import CaptionTokenizer

LEVELS = ("word", "sentence", "report")
MAX_SCALE = 100.0
"""Upper limit of the factor of the cosines: above it single pairs rule the loss."""


class Heads(nn.Module):
    """Projections of both encoders to the shared space, the pooling of bags, and the temperatures."""

    def __init__(self, cells: int, image: int, text: int, width: int) -> None:
        super().__init__()
        self.of_cells = nn.Linear(cells, width, bias=False)
        self.of_patch = nn.Linear(image, width)
        self.of_bag = nn.Linear(image, width)
        self.pool = nn.Sequential(nn.Linear(image, width), nn.Tanh(), nn.Linear(width, 1))
        self.of_words, self.of_sentence, self.of_report = (nn.Linear(text, width) for _ in range(3))
        start = {"attention": 4.0, "aggregation": 5.0, "word": 10.0, "sentence": 10.0, "report": 10.0}
        self.log_temperatures = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(math.log(value))) for name, value in start.items()}
        )

    def temperature(self, name: str) -> Tensor:
        """Inverse temperature `attention` or `aggregation`, or the factor of a level's scores."""
        value: Tensor = self.log_temperatures[name].exp()
        return value.clamp(max=MAX_SCALE)


class AFLoc(nn.Module):
    """Image encoder, text encoder and heads. `plain` as for `wsikit.models.encoders.ImageEncoder`.

    Attributes
    ----------
    config : AflocConfig
    tokenizer : CaptionTokenizer
    fingerprint : str or None
        sha256 of the files in `folder`; None for a model that was never saved.
    folder : Path or None
        Folder from which the model was loaded.
    """

    def __init__(self, config: AflocConfig, tokenizer: CaptionTokenizer, *, plain: bool = True) -> None:
        super().__init__()
        rows = config.text.options.get("vocab_size")
        if rows is not None and rows < tokenizer.vocabulary:
            raise ModelError(
                f"{config.name}: the tokenizer has {tokenizer.vocabulary} tokens and the text encoder {rows}; "
                "they are not from the same model."
            )
        self.config, self.tokenizer = config, tokenizer
        self.fingerprint: str | None = None
        self.folder: Path | None = None
        self.ood_detector: OodDetector | None = None
        self.image: ImageEncoder | StoredFeatures
        if isinstance(config.image, FeatureBranchConfig):
            self.image = StoredFeatures(config.image)
            channels = self.image.width
        else:
            self.image = ImageEncoder(config.image, patch_px=config.patch_px, plain=plain)
            channels = _channels(self.image, config.patch_px)
        self.text = TextEncoder(config.text, plain=plain)
        self.heads = Heads(channels, self.image.width, self.text.width, config.width)

    def parts(self) -> dict[str, nn.Module]:
        """The parts that training freezes and unfreezes separately."""
        return {"image": self.image, "text": self.text, "heads": self.heads}

    @property
    def reads_pixels(self) -> bool:
        """Whether patches are pixels, uint8 (B, H, W, 3); else features, float (B, D)."""
        return isinstance(self.image, ImageEncoder)

    def patches(self, images: Tensor) -> Tensor:
        """Patches, uint8 (B, H, W, 3), or their features (B, D), in the shared space (B, d), not normalised."""
        placed: Tensor = self.heads.of_patch(self.image(images))
        return placed

    def cells_and_features(self, images: Tensor, per_bag: int = 1) -> tuple[Tensor, Tensor]:
        """Places for words, in the shared space, (B, h·w, d), and the encoder's features (B, D). Places are cells of
        the feature map; of stored features, which have none, the patches of a bag of `per_bag`: (B / per_bag, per_bag,
        d)."""
        if isinstance(self.image, StoredFeatures):
            features: Tensor = self.image(images)
            return self.heads.of_cells(features.view(-1, per_bag, features.shape[1])), features
        cells, features = self.image.map_and_features(images)
        return self.heads.of_cells(cells.flatten(2).transpose(1, 2)), features

    def bag(self, features: Tensor) -> Tensor:
        """Bags of patches, features (B, m, D), in the shared space (B, d), by attention over the patches."""
        weights = self.heads.pool(features).softmax(dim=1)  # (B, m, 1)
        placed: Tensor = self.heads.of_bag((weights * features).sum(dim=1))
        return placed

    def words(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features of the words of texts, (T, n, D), and bool (T, n), True where there is a word.

        Word-pieces are summed. Special tokens are no words. A text of one word has one; one without any is refused.
        """
        device = next(self.parameters()).device
        tokens, words = self.tokenizer(list(texts)), torch.from_numpy(self.tokenizer.words(texts)).to(device)
        if bool((empty := (words < 0).all(dim=1)).any()):
            text = texts[int(empty.nonzero()[0])]
            raise RequestError(f"text {text!r}: has no word. Give a word or a sentence.")
        hidden = self.text.tokens(torch.from_numpy(tokens.ids).to(device), torch.from_numpy(tokens.mask).to(device))
        n = int(words.max()) + 1
        belongs = (words[:, :, None] == torch.arange(n, device=device)).to(hidden.dtype)  # (T, L, n)
        return belongs.transpose(1, 2) @ hidden, belongs.any(dim=1)

    @staticmethod
    def pooled(words: Tensor, mask: Tensor) -> Tensor:
        """Mean over the words of each text, (T, D): padding does not count."""
        return (words * mask[:, :, None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def sentences(self, texts: Sequence[str]) -> Tensor:
        """Sentences in the shared space (T, d), not normalised."""
        placed: Tensor = self.heads.of_sentence(self.pooled(*self.words(texts)))
        return placed


@torch.no_grad()
def _channels(image: ImageEncoder, patch_px: int) -> int:
    """Channels of the encoder's feature map."""
    sample = torch.zeros(1, patch_px, patch_px, 3, dtype=torch.uint8)
    channels = int(image.eval().map_and_features(sample)[0].shape[1])
    image.train()
    return channels
