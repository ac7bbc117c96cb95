"""A captioner that measures two shares of colour and states them in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Caption, check_patches


class ColourWords:
    name = "colour-words"
    parallel = True  # it may be called from several threads or processes at once
    fact_names = ("blue_share", "pink_share")

    def __init__(self, margin: int) -> None:
        self.margin = margin

    def fingerprint(self) -> dict[str, Any]:
        """Everything that decides the text: another value makes the captions of a store again."""
        return {"captioner": self.name, "version": 1, "margin": self.margin}

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """One caption per patch of uint8 (B, H, W, 3); each depends on its own patch only."""
        check_patches(images, mpp)
        return [self._one(image.astype(np.int16)) for image in images]

    def _one(self, image: npt.NDArray[np.int16]) -> Caption:
        red, green, blue = image[..., 0], image[..., 1], image[..., 2]
        facts = {
            "blue_share": float((blue > red + self.margin).mean()),
            "pink_share": float((red > green + self.margin).mean()),
        }
        text = f"Blue {self._word(facts['blue_share'])}, pink {self._word(facts['pink_share'])}."
        return Caption(text, facts, self.name)

    @staticmethod
    def _word(share: float) -> str:
        return "absent" if share < 0.02 else "moderate" if share < 0.4 else "abundant"


def make(argument: str | None, *, device: str) -> ColourWords:
    """`--captioner colour-words` or `--captioner colour-words#MARGIN`."""
    return ColourWords(int(argument or 10))
