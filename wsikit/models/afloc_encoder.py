"""An AFLoc model as an encoder of patches and texts: `wsikit.encoders.protocol.TextImageEncoder`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from wsikit.encoders.protocol import EncoderInfo
from wsikit.encoders.tokens import pooled
from wsikit.errors import ModelError, RequestError
from wsikit.models.afloc import AFLoc
from wsikit.models.afloc_config import afloc_info, read_afloc_config
from wsikit.models.config import CONFIG_FILE, OOD_FILE, WEIGHTS_FILE, fingerprint
from wsikit.models.encoders import ImageEncoder
from wsikit.models.model_folder import building
from wsikit.models.ood import OodDetector
from wsikit.models.tokenizer import CaptionTokenizer
from wsikit.tensor_files import load_module

AT_ONCE = 64
_Function = Callable[[Tensor], Tensor]


def load_afloc(folder: str | Path) -> AFLoc:
    """Load an AFLoc model from its folder; on the CPU, in evaluation mode. Neither timm nor transformers is imported
    where `wsikit.models.plain` has its encoders.

    Raises
    ------
    ModelError
        If the folder is incomplete, damaged or of another architecture.
    """
    folder = Path(folder)
    config = read_afloc_config(folder)
    tokenizer = CaptionTokenizer.load(folder, max_tokens=config.text_max_tokens)
    with building(folder / CONFIG_FILE, folder / WEIGHTS_FILE):
        model = AFLoc(config, tokenizer)
    load_module(model, folder / WEIGHTS_FILE)
    if isinstance(model.image, ImageEncoder) and model.image.width != config.image_width:
        raise ModelError(
            f"{folder}: the image encoder gives {model.image.width} features, config.json says {config.image_width}; "
            "copy the model's folder again."
        )
    model.folder, model.fingerprint = folder, fingerprint(folder, detector=False)
    if (folder / OOD_FILE).is_file():
        model.ood_detector = OodDetector.load(folder / OOD_FILE, width=config.image_width)
    return model.eval()


def load_afloc_encoder(folder: str | Path, *, device: str = "auto") -> AflocEncoder:
    """Load an AFLoc model as an encoder; "auto" uses a GPU if there is one.

    Raises
    ------
    ModelError
        As for `load_afloc`; also if there is no such device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_afloc(folder)
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"device {device!r}: torch cannot use it here ({reason}); use 'cpu' or 'auto'.") from error
    return AflocEncoder(model, afloc_info(Path(folder)))


class AflocEncoder:
    """Encoder of patches and texts. A text is compared with a patch as in training: sentence with patch, by cosine.

    Attributes
    ----------
    model : AFLoc
        In eval mode.
    """

    def __init__(self, model: AFLoc, info: EncoderInfo) -> None:
        self.model = model.eval()
        self._info = info

    @property
    def info(self) -> EncoderInfo:
        return self._info

    @property
    def logit_scale(self) -> float:
        """Factor of the cosines before the softmax over texts, as trained."""
        return float(self.model.heads.temperature("sentence").detach())

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Features of the image encoder, float32 (B, D), of patches, uint8 (B, P, P, 3) RGB.

        Patches of another size than the model's are resized.

        Raises
        ------
        ModelError
            The patches have another shape or dtype.
        """
        return self._in_batches(images, self.model.image, self._info.width)

    def encode_shared(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Places of patches in the shared space, float32 (B, S), each of length 1. See `encode`."""
        width = self.model.config.width
        return self._in_batches(images, lambda some: functional.normalize(self.model.patches(some), dim=-1), width)

    def encode_tokens(self, images: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.float32]:
        """Cells of the feature map; see `wsikit.encoders.protocol.TokenEncoder`."""
        image = self.model.image
        if not isinstance(image, ImageEncoder):
            raise ModelError(f"encoder {self._info.name!r}: reads stored features, which have no feature map.")
        with torch.inference_mode():
            sample = torch.zeros(1, *(self.model.config.patch_px,) * 2, 3, dtype=torch.uint8)
            channels = image.map_and_features(sample.to(next(image.parameters()).device))[0].shape[1]
        flat = self._in_batches(
            images, lambda some: pooled(image.map_and_features(some)[0], side).flatten(1), side**2 * channels
        )
        return flat.reshape(len(images), side**2, channels)

    def place_features(self, features: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """Places in the shared space, float32 (N, S), each of length 1, of stored features (N, D); NaN stays NaN.

        Raises
        ------
        ModelError
            The model reads pixels, or features of another width.
        """
        wanted = self._info.reads
        if wanted is None or features.ndim != 2 or features.shape[1] != wanted.width:
            reads = "pixels" if wanted is None else f"{wanted.width} features of {wanted.name}"
            raise ModelError(f"encoder {self._info.name!r}: got features of shape {features.shape}; it reads {reads}.")
        values = torch.from_numpy(np.asarray(features, np.float32)).to(next(self.model.parameters()).device)
        with torch.inference_mode():
            placed: npt.NDArray[np.float32] = functional.normalize(self.model.patches(values), dim=-1).cpu().numpy()
        return placed

    def ood_scores(self, patches: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """How far patches are from those of the training, float32 (N,): above 1, farther than 99 % of held-out ones.

        `patches` is uint8 (N, P, P, 3) RGB, or stored features (N, D) if the encoder reads these; NaN stays NaN.

        Raises
        ------
        ModelError
            The model has no detector (`info.detector` is empty).
        """
        detector = self.model.ood_detector
        if detector is None:
            raise ModelError(f"encoder {self._info.name!r}: has no out-of-distribution detector.")
        if self._info.reads is None:
            return detector.of(self.encode(patches))
        values = torch.from_numpy(np.asarray(patches, np.float32)).to(next(self.model.parameters()).device)
        with torch.inference_mode():
            return detector.of(self.model.image(values).cpu().numpy())

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Places of K texts in the shared space, float32 (K, S), each of length 1.

        Raises
        ------
        RequestError
            A text is empty, or has no word.
        """
        for text in texts:
            if not text.strip():
                raise RequestError(f"encoder {self._info.name!r}: text {text!r} is empty. Give a word or a sentence.")
        rows = np.zeros((len(texts), self.model.config.width), np.float32)
        with torch.inference_mode():
            for row, text in enumerate(texts):  # one at a time: a text's place never depends on those next to it
                rows[row] = functional.normalize(self.model.sentences([text]), dim=-1)[0].float().cpu().numpy()
        return rows

    def _in_batches(
        self, images: npt.NDArray[np.uint8], function: torch.nn.Module | _Function, width: int
    ) -> npt.NDArray[np.float32]:
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
            raise ModelError(
                f"encoder {self._info.name!r}: got patches of shape {images.shape} and type {images.dtype}; expected "
                "uint8 (B, P, P, 3), RGB."
            )
        if (wanted := self._info.reads) is not None:
            raise ModelError(
                f"encoder {self._info.name!r}: reads stored features of {wanted.name}, not pixels. It maps stores that "
                f"have the column features_{wanted.name}: wsikit localize STORE CONCEPT --encoder MODEL."
            )
        device = next(self.model.parameters()).device
        out = np.empty((len(images), width), np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), AT_ONCE):
                part = torch.from_numpy(np.array(images[start : start + AT_ONCE])).to(device)
                out[start : start + len(part)] = function(self._sized(part)).float().cpu().numpy()
        return out

    def _sized(self, images: Tensor) -> Tensor:
        side = self.model.config.patch_px
        if images.shape[1] == side:
            return images
        planes = images.permute(0, 3, 1, 2).float()
        resized = functional.interpolate(planes, size=(side, side), mode="bilinear", antialias=True)
        return resized.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
