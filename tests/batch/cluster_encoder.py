"""An encoder that writes down in which worker of a cluster it ran: a file with its name in the folder NOTES."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.encoders.protocol import EncoderInfo


@dataclass
class Notes:
    """The mean colour of a patch. On workers it waits until it has run in `together` of them."""

    info: EncoderInfo = EncoderInfo("notes", 3, 64, None, "weights 1")
    together: int = 0
    patience: int = 600
    """After so many tenths of a second in one process it waits no more."""

    def encode(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        if "WORKER" in os.environ:
            folder = Path(os.environ["NOTES"])
            (folder / os.environ["WORKER"]).touch()
            while self.patience and len(list(folder.iterdir())) < self.together:
                threading.Event().wait(0.1)
                self.patience -= 1
        return images.mean(axis=(1, 2)).astype(np.float32)
