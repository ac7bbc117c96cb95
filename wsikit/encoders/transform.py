"""What happens to a patch before a model sees it, as data: no torch here.

`wsikit.encoders.preparing` applies it on the device.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from wsikit.errors import ModelError

Interpolation = Literal["bilinear", "bicubic"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Transform:
    """Resize to a side, cut out the centre, scale to 0–1, normalise.

    >>> Transform(crop=224, resize=256).record()["resize"]
    256
    """

    crop: int = 224
    """Side of what the model sees, px."""
    resize: int | None = None
    """Side to which a patch is resized before the cut, px; None: `crop`. A patch of this side is not resized."""
    interpolation: Interpolation = "bilinear"
    """With antialiasing, as Pillow resizes."""
    mean: RGB = IMAGENET_MEAN
    std: RGB = IMAGENET_STD

    def __post_init__(self) -> None:
        if not 0 < self.crop <= self.side or min(self.std) <= 0 or self.interpolation not in ("bilinear", "bicubic"):
            raise ModelError(
                f"{self}: expected 0 < crop <= resize, std above 0, and bilinear or bicubic interpolation."
            )

    @property
    def side(self) -> int:
        """Side to which patches are resized, px."""
        return self.crop if self.resize is None else self.resize

    def record(self) -> dict[str, Any]:
        """As plain JSON values; part of an encoder's fingerprint."""
        return {**asdict(self), "resize": self.side, "mean": list(self.mean), "std": list(self.std)}
