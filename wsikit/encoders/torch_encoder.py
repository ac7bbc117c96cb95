"""An encoder made of a torch module and a transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from wsikit.encoders.preparing import prepared
from wsikit.encoders.protocol import EncoderInfo
from wsikit.encoders.tokens import map_of_module, pooled
from wsikit.encoders.transform import Transform
from wsikit.errors import ModelError, RequestError

Forward = Callable[[Tensor], Tensor]


def device_of(name: str) -> torch.device:
    """The torch device of a name; "auto" is a GPU if there is one.

    Raises
    ------
    ModelError
        There is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"device {name!r}: torch cannot use it here ({str(error).splitlines()[0]}); use 'cpu' or 'auto'."
        ) from error
    return device


class TorchEncoder:
    """A module from normalised images, float (B, 3, crop, crop), to features, float (B, D), with its transform.

    Attributes
    ----------
    module
        In eval mode, on `device`.
    forward
        From patches, uint8 (B, P, P, 3) on the device, to features (B, D) on the device. Called under
        `torch.inference_mode`. At first `plain_forward`; an engine replaces it by something faster.
    batch
        Patches at a time.
    """

    def __init__(
        self,
        module: nn.Module,
        info: EncoderInfo,
        transform: Transform,
        *,
        device: str = "auto",
        batch: int = 32,
    ) -> None:
        self.device = device_of(device)
        self.module = module.to(self.device).eval().requires_grad_(False)
        self.transform = transform
        self.batch = batch
        self.forward: Forward = self.plain_forward
        self._info = info

    @property
    def info(self) -> EncoderInfo:
        return self._info

    def plain_forward(self, images: Tensor) -> Tensor:
        """Resize, normalise, and the module, in float32."""
        features: Tensor = self.module(prepared(images, self.transform))
        return features

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Features, float32 (B, D), of patches, uint8 (B, P, P, 3) RGB.

        Raises
        ------
        ModelError
            The patches have another shape or dtype, or the features another width, or are not finite.
        """
        return self.in_batches(self.forward, images, self._info.width)

    def encode_tokens(self, images: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.float32]:
        """See `wsikit.encoders.protocol.TokenEncoder`; of encoders of timm."""
        check_patches(images, self._info.name)
        parts = []
        with torch.inference_mode():
            for start in range(0, len(images), self.batch):
                part = prepared(_tensor(images[start : start + self.batch]).to(self.device), self.transform)
                parts.append(pooled(map_of_module(self.module, part, self._info.name), side).float().cpu().numpy())
        return np.concatenate(parts)

    def in_batches(self, function: Forward, images: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.float32]:
        """`function` of patches on the device, in batches; its output is checked: (B, `width`), finite."""
        check_patches(images, self._info.name)
        out = np.empty((len(images), width), np.float32)
        with torch.inference_mode():
            for start in range(0, len(images), self.batch):
                part = np.ascontiguousarray(images[start : start + self.batch])
                features = function(_tensor(part).to(self.device))
                if features.shape != (len(part), width):
                    raise ModelError(
                        f"encoder {self._info.name!r}: gave {tuple(features.shape)} for {len(part)} patches; expected "
                        f"({len(part)}, {width}). Its description does not fit its weights."
                    )
                out[start : start + len(part)] = features.to(torch.float32).cpu().numpy()
        if not np.isfinite(out).all():
            raise ModelError(
                f"encoder {self._info.name!r}: gave features that are not finite for "
                f"{int((~np.isfinite(out).all(axis=1)).sum())} of {len(out)} patches. Its weights are damaged, or too "
                "large for the precision that is used; try float32."
            )
        return out


class TextTorchEncoder(TorchEncoder):
    """A `TorchEncoder` whose module also has a space shared with texts.

    The module has `shared(images)`, from normalised images to places of length 1, `encode_texts(texts, device)`, and
    `scale`, the factor of the cosines.

    Attributes
    ----------
    shared_forward
        As `forward`, to the shared space.
    """

    def __init__(
        self, module: nn.Module, info: EncoderInfo, transform: Transform, *, device: str = "auto", batch: int = 32
    ) -> None:
        super().__init__(module, info, transform, device=device, batch=batch)
        self.shared_forward: Forward = self.plain_shared_forward

    def plain_shared_forward(self, images: Tensor) -> Tensor:
        """Resize, normalise, and the module's places in the shared space, in float32."""
        module: Any = self.module
        places: Tensor = module.shared(prepared(images, self.transform))
        return places

    @property
    def logit_scale(self) -> float:
        """Factor of the cosines before the softmax over texts, as trained."""
        module: Any = self.module
        return float(module.scale)

    def encode_shared(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Places of patches in the shared space, float32 (B, S), each of length 1.

        Raises
        ------
        ModelError
            As for `encode`.
        """
        assert self._info.shared_width is not None
        return self.in_batches(self.shared_forward, images, self._info.shared_width)

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Places of K texts in the shared space, float32 (K, S), each of length 1.

        Raises
        ------
        RequestError
            A text is empty, or longer than the model reads.
        ModelError
            The model's folder has no tokenizer.
        """
        for row, text in enumerate(texts):
            if not text.strip():
                raise RequestError(f"text {row + 1} of {len(texts)} is empty; expected words.")
        width = self._info.shared_width
        assert width is not None
        module: Any = self.module
        out = np.empty((len(texts), width), np.float32)
        with torch.inference_mode():
            for start in range(0, len(texts), self.batch):
                part = list(texts[start : start + self.batch])
                places = module.encode_texts(part, self.device)
                if places.shape != (len(part), width):
                    raise ModelError(
                        f"encoder {self._info.name!r}: gave {tuple(places.shape)} for {len(part)} texts; expected "
                        f"({len(part)}, {width})."
                    )
                out[start : start + len(part)] = places.to(torch.float32).cpu().numpy()
        return out


def check_patches(images: npt.NDArray[np.uint8], name: str) -> None:
    """Refuse what is not a batch of square RGB patches in uint8."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or images.shape[1] != images.shape[2]:
        raise ModelError(
            f"encoder {name!r}: got patches of shape {images.shape} and type {images.dtype}; expected uint8 "
            "(B, P, P, 3), RGB."
        )


def _tensor(part: npt.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(part if part.flags.writeable else part.copy())
