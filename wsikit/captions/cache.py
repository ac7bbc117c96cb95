"""A cache of captions by pixel content, in memory: equal patches are described once. Files are left to the caller."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import (
    Caption,
    Captioner,
    FitsToSlide,
    batch_of,
    check_patches,
    images_per_call_of,
    in_parallel,
)
from wsikit.captions.fields import field_of

MAX_CAPTIONS = 100_000
"""Maximum number of cached captions (about 50 MB); the least recently used are dropped."""


def pixel_key(image: npt.NDArray[np.uint8], mpp: float) -> str:
    """Hash of a patch, uint8 (H, W, 3), as 40 hexadecimal digits: equal for equal pixels, shape and pixel size.

    Examples
    --------
    >>> white = np.full((4, 4, 3), 255, np.uint8)
    >>> pixel_key(white, 0.5) == pixel_key(white.copy(), 0.5) != pixel_key(white, 0.25)
    True
    """
    digest = hashlib.blake2b(repr((image.shape, float(mpp))).encode(), digest_size=20)
    digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def cached(captioner: Captioner) -> Captioner:
    """The captioner with a cache, if it is sequential and its captions depend on pixels only; else the captioner."""
    return captioner if in_parallel(captioner) or isinstance(captioner, FitsToSlide) else CachedCaptioner(captioner)


class CachedCaptioner:
    """A captioner that is called once for equal pixels, within a batch and across batches, slides and stores.

    Failures are not cached: a failed request may succeed when it is sent again. Nothing is cached for a captioner with
    several images per call: which images are described together must not depend on what was described before.

    Attributes
    ----------
    asked, reused : int
        Number of patches given to the captioner, and of patches answered from the cache.
    """

    def __init__(self, captioner: Captioner, *, max_captions: int = MAX_CAPTIONS) -> None:
        self.captioner = captioner
        self.name = captioner.name
        self.fact_names = captioner.fact_names
        self.parallel = False  # one cache, without a lock; parallel captioners are fast enough without
        self.batch = batch_of(captioner)
        self.field = field_of(captioner)
        self.images_per_call = images_per_call_of(captioner)
        self.asked = self.reused = 0
        self._max_captions = max_captions
        self._cached: OrderedDict[str, Caption] = OrderedDict()

    def fingerprint(self) -> dict[str, Any]:
        """The fingerprint of the captioner: caching changes no caption."""
        return self.captioner.fingerprint()

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        """Captions of patches, uint8 (B, H, W, 3) at `mpp` µm per pixel, in the same order."""
        check_patches(images, mpp)
        if self.images_per_call > 1:
            self.asked += len(images)
            return self.captioner.caption(images, mpp=mpp)
        keys = [pixel_key(image, mpp) for image in images]
        first: dict[str, int] = {}
        for row, key in enumerate(keys):
            if key not in self._cached:
                first.setdefault(key, row)
        rows = list(first.values())
        found = {key: self._cached[key] for key in set(keys) - set(first)}
        if rows:
            found.update(zip(first, self.captioner.caption(images[rows], mpp=mpp), strict=True))
        self.asked += len(rows)
        self.reused += len(keys) - len(rows)
        for key, caption in found.items():
            self.add(key, caption)
        return [found[key] for key in keys]

    def add(self, key: str, caption: Caption) -> None:
        """Cache a caption for the pixels with this `pixel_key`, unless it is a failure."""
        if caption.failure:
            return
        self._cached[key] = caption
        self._cached.move_to_end(key)
        if len(self._cached) > self._max_captions:
            self._cached.popitem(last=False)
