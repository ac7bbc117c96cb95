"""Equal pixels are described once: a captioner that remembers what it said. In memory; files are for the caller."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Caption, Captioner, FitsToSlide, batch_of, check_patches, in_parallel

MOST = 100_000
"""Captions kept, the latest used: some 50 MB."""


def pixel_key(image: npt.NDArray[np.uint8], mpp: float) -> str:
    """Name of a patch by its content: equal for equal pixels, shape and scale. uint8 (H, W, 3)."""
    digest = hashlib.blake2b(repr((image.shape, float(mpp))).encode(), digest_size=20)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def cached(captioner: Captioner) -> Captioner:
    """The captioner with a memory, where equal pixels have equal captions and asking twice is dear."""
    return captioner if in_parallel(captioner) or isinstance(captioner, FitsToSlide) else CachedCaptioner(captioner)


class CachedCaptioner:
    """A captioner that is asked once for equal pixels, within a batch and across batches, slides and stores.

    Failures are not remembered: what failed may succeed when it is asked again.

    Attributes
    ----------
    asked, reused : int
        Patches given to the captioner, and patches that got what was known already.
    """

    def __init__(self, captioner: Captioner, *, most: int = MOST) -> None:
        self.captioner = captioner
        self.name = captioner.name
        self.fact_names = captioner.fact_names
        self.parallel = False  # the memory is one; a captioner that may be called in parallel needs none
        self.batch = batch_of(captioner)
        self.asked = self.reused = 0
        self._most = most
        self._known: OrderedDict[str, Caption] = OrderedDict()

    def fingerprint(self) -> dict[str, Any]:
        """The captioner's own: cached changes no word."""
        return self.captioner.fingerprint()

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """Describe patches, uint8 (B, H, W, 3) at `mpp` µm per pixel, in their order."""
        check_patches(images, mpp)
        keys = [pixel_key(image, mpp) for image in images]
        first: dict[str, int] = {}
        for row, key in enumerate(keys):
            if key not in self._known:
                first.setdefault(key, row)
        rows = list(first.values())
        found = {key: self._known[key] for key in set(keys) - set(first)}
        if rows:
            found.update(zip(first, self.captioner.caption(images[rows], mpp=mpp), strict=True))
        self.asked += len(rows)
        self.reused += len(keys) - len(rows)
        for key, caption in found.items():
            self.learn(key, caption)
        return [found[key] for key in keys]

    def learn(self, key: str, caption: Caption) -> None:
        """Remember a caption for pixels of that `pixel_key`, unless it is a failure."""
        if caption.failure:
            return
        self._known[key] = caption
        self._known.move_to_end(key)
        if len(self._known) > self._most:
            self._known.popitem(last=False)
