"""The feature extraction of another library, as it comes: one turn per line of standard input. Runs without wsikit.

    PEER_PYTHON benchmarks/features_peers.py lazyslide|tiatoolbox JOB.json

benchmarks/features.py --peer-python starts it, with the Python of an environment in which the library is installed, and
takes turns with it. JOB.json: slide, mpp (µm/px of level 0), coords (a .npy file, level-0 px), read_px (side, level-0
px), patch_px, weights (of timm's ResNet-18), workers, batch, out (folder).

Each turn opens the slide, takes the given patches, computes their features in float32 and writes them as the library
does. Finding tissue and laying a grid are not part of it, so the figures favour the library.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

MASK_PX = 16
"""Level-0 px per pixel of the mask."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def model_of(job: dict[str, Any]) -> Any:
    """The ResNet-18 with the weights of the benchmark."""
    import timm
    import torch

    model = timm.create_model("resnet18", num_classes=0)
    model.load_state_dict(torch.load(job["weights"], weights_only=True))
    return model.eval()


def lazyslide(job: dict[str, Any]) -> Callable[[Path], np.ndarray]:
    """`lazyslide.tl.feature_extraction` on tiles at the given places; written by `WSIData.write`."""
    import torch
    from lazyslide.tools import feature_extraction
    from torchvision.transforms.v2 import Compose, Normalize, ToDtype, ToImage
    from wsidata import TileSpec, open_wsi
    from wsidata.io import add_tiles

    model, coords = model_of(job), np.load(job["coords"])
    transform = Compose([ToImage(), ToDtype(torch.float32, scale=True), Normalize(MEAN, STD)])

    def turn(out: Path) -> np.ndarray:
        wsi = open_wsi(job["slide"], store=str(out / "slide.zarr"))
        spec = TileSpec.from_wsidata(wsi, tile_px=job["patch_px"], mpp=job["mpp"] * job["read_px"] / job["patch_px"])
        add_tiles(wsi, "tiles", coords, spec, tissue_ids=np.zeros(len(coords), int))
        feature_extraction(
            wsi, model, model_name="resnet18", transform=transform, device="cpu", batch_size=job["batch"],
            num_workers=job["workers"], pbar=False,
        )  # fmt: skip
        wsi.write()
        return np.asarray(wsi.tables["resnet18_tiles"].X)

    return turn


def tiatoolbox(job: dict[str, Any]) -> Callable[[Path], np.ndarray]:
    """`DeepFeatureExtractor` with a mask of the given places, which are of its own grid; written by itself as Zarr."""
    import torch
    import zarr
    from tiatoolbox.models.engine.deep_feature_extractor import DeepFeatureExtractor
    from tiatoolbox.models.models_abc import ModelABC
    from tiatoolbox.wsicore.wsireader import WSIReader
    from torchvision.transforms import Compose, Normalize, ToTensor

    if job["read_px"] != job["patch_px"]:
        sys.exit("tiatoolbox: give patches at the slide's own pixel size, which its grid is laid in here")
    transform = Compose([ToTensor(), Normalize(MEAN, STD)])

    class Model(ModelABC):
        def __init__(self) -> None:
            super().__init__()
            self.body = model_of(job)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

        @staticmethod
        def preproc(image: np.ndarray) -> torch.Tensor:
            return transform(image)

        @staticmethod
        def infer_batch(model: torch.nn.Module, batch_data: torch.Tensor, *, device: str) -> list[np.ndarray]:
            with torch.inference_mode():
                return [model(batch_data.to(device)).numpy()]

    coords, side = np.load(job["coords"]), job["patch_px"]
    width, height = WSIReader.open(job["slide"]).slide_dimensions(1.0, "baseline")
    mask = np.zeros((height // MASK_PX, width // MASK_PX), np.uint8)
    for x, y in (coords + side // 2) // MASK_PX:
        mask[y - 1 : y + 2, x - 1 : x + 2] = 1
    extractor = DeepFeatureExtractor(Model(), batch_size=job["batch"], num_workers=job["workers"], verbose=False)

    def turn(out: Path) -> np.ndarray:
        written = extractor.run(
            [job["slide"]], masks=[mask], patch_mode=False,
            input_resolutions=[{"units": "baseline", "resolution": 1.0}],
            patch_input_shape=(side, side), stride_shape=(side, side), save_dir=out / "tia", output_type="zarr",
        )  # fmt: skip
        found: Any = zarr.open_group(str(next(iter(written.values()))), mode="r")
        at = {tuple(place[:2]): row for row, place in enumerate(found["coordinates"][:].tolist())}
        return np.asarray(found["features"][:])[[at[tuple(place)] for place in coords.tolist()]]

    return turn


PEERS = {"lazyslide": lazyslide, "tiatoolbox": tiatoolbox}


def processor_s() -> float:
    """Processor seconds of this process and of its children that have ended."""
    own, children = (resource.getrusage(of) for of in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


class Peer:
    """A library in a process of its own, under the Python of its environment."""

    def __init__(self, name: str, python: str, job: dict[str, Any], folder: Path) -> None:
        folder.mkdir()
        (folder / "job.json").write_text(json.dumps({**job, "out": str(folder / "out")}), encoding="utf-8")
        script, self._log = Path(__file__).with_name("features_peers.py"), folder / "log.txt"
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [python, "-W", "ignore", str(script), name, str(folder / "job.json")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log.open("wb"), text=True, env=environment,
        )  # fmt: skip
        self.name, self.features = name, folder / f"{name}.npy"
        self.versions: dict[str, str] = self._answer()["versions"]
        self.patches = 0

    def __call__(self) -> tuple[float, float]:
        assert self._process.stdin is not None
        self._process.stdin.write("turn\n")
        self._process.stdin.flush()
        taken = self._answer()
        self.patches = taken["patches"]
        return taken["wall_s"], taken["cpu_s"]

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} failed:\n{self._log.read_text(encoding='utf-8', errors='replace')[-3000:]}")
        return json.loads(line)


def main() -> int:
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    name, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    turn, out = PEERS[name](job), Path(job["out"])
    versions = {one: version(one) for one in (name, "torch", "torchvision", "timm")}
    print(json.dumps({"versions": versions}), file=answer, flush=True)
    for _ in sys.stdin:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        begun, before = time.perf_counter(), processor_s()
        features = turn(out)
        taken = {"wall_s": time.perf_counter() - begun, "cpu_s": processor_s() - before}
        np.save(out.parent / f"{name}.npy", features)
        print(json.dumps({**taken, "patches": len(features)}), file=answer, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
