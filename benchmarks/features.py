"""Features of patches: share of the model's own speed that is reached, against other loops, and memory.

    python benchmarks/features.py SLIDE [--pairs 3] [--patches 96] [--json FILE] [--only share,loops,peers,memory]

One run, the same random weights and the same patches for all. Processor seconds of the process with its children, and
wall seconds, of alternating turns; medians.

share    `wsikit.features` on a store, against the same engine on tensors in memory, already normalised: ViT-S/16 and
         ResNet-50. 1.0: reading and writing cost nothing. Aim: 0.95.
loops    Slide file to features file with a ResNet-18: wsikit (the slide is tiled too), against the common pattern
         of other tools: OpenSlide `read_region` of each patch in a torch `DataLoader` with worker processes, to tensor,
         normalise, model, HDF5. It is written here after that pattern, and is no tool's own code. The same patches.
         Both in float32, and wsikit as it comes too (bfloat16 where the processor has units for it).
peers    The same against the own feature extraction of LazySlide and TIAToolbox, each in an environment of its own:
         --peer-python lazyslide=PATH --peer-python tiatoolbox=PATH, the Python in which it is installed. Places are
         given to them (features_peers.py), so finding tissue is part of wsikit's time only.
memory   Peak memory with few and with eight times as many patches, of a process of its own each (Linux).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from features_peers import Peer, processor_s

AIMS = {"share": 0.95, "loops": 1.5}
SHARE_MODELS = ("vit_small_patch16_224", "resnet50")
LOOP_MODEL = "resnet18"


def turns(ways: dict[str, Callable[[], tuple[float, float] | None]], pairs: int) -> dict[str, dict[str, float]]:
    """Medians of each way, in alternating turns after one that is not counted. A way that runs in another process
    returns its wall and processor seconds."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(pairs + 1):
        for name in list(ways) if turn % 2 else list(ways)[::-1]:
            begun, before = time.perf_counter(), processor_s()
            found = ways[name]() or (time.perf_counter() - begun, processor_s() - before)
            if turn:
                taken[name].append(found)
    return {
        name: {
            "wall_s": round(statistics.median(wall for wall, _ in of), 3),
            "cpu_s": round(statistics.median(cpu for _, cpu in of), 3),
            "least_cpu_s": round(min(cpu for _, cpu in of), 3),
        }
        for name, of in taken.items()
    }


def small_store(slide: str, folder: Path, patches: int, mpp: float = 0.5) -> Any:
    """A store of the slide whose table has the first `patches` patches of those with tissue."""
    import wsikit
    from wsikit.store.receipts import Receipt
    from wsikit.store.table import PatchTable

    store = wsikit.tile(slide, folder / "slide.zarr", mpp=mpp)
    table = store.patches()
    first = table.coords[:patches]
    PatchTable.create(table.folder, table.grid, first, Receipt("patches", 1, {"first": patches}))
    return store


def share(slide: str, folder: Path, model: str, pairs: int, patches: int, precision: str) -> dict[str, Any]:
    """End to end from a store, against tensors in memory."""
    import torch

    import wsikit
    from wsikit.encoders.lazy import LazyEncoder
    from wsikit.encoders.preparing import normalised, resized
    from wsikit.encoders.registry import load_encoder
    from wsikit.encoders.threads import ModelThreads
    from wsikit.encoders.torch_engine import TorchEngine
    from wsikit.tiling.stream import read_patches

    store = small_store(slide, folder, patches)
    table = store.patches()
    encoder = load_encoder(f"random:{model}", device="cpu")
    lazy = LazyEncoder.of(encoder)
    engine = TorchEngine(encoder, precision=precision)
    images = torch.from_numpy(read_patches(store, table.grid, table.coords).images)
    x = resized(images, encoder.transform)
    ready = list((x.to(torch.float32) if engine.folds else normalised(x, encoder.transform)).split(engine.batch))

    def forward(part: torch.Tensor) -> Any:
        with torch.inference_mode(), engine._cast():
            return engine._forward(part)

    def in_memory() -> None:
        with ModelThreads() as threads:
            list(threads.map(forward, ready))

    def end_to_end() -> None:
        table.drop(encoder.info.column)
        wsikit.features(store, encoder=lazy, grid=table.name, engine="torch", precision=precision)

    found = turns({"in memory": in_memory, "end to end": end_to_end}, pairs)
    ratios = {kind: found["in memory"][kind] / found["end to end"][kind] for kind in ("wall_s", "cpu_s", "least_cpu_s")}
    return {
        "patches": len(table),
        "precision": engine.precision,
        **found,
        "patches_per_s": round(len(table) / found["end to end"]["wall_s"], 1),
        "share": {kind: round(ratio, 3) for kind, ratio in ratios.items()},
    }


class SlidePatches:
    """Patches of a slide by OpenSlide, as a torch dataset; each worker process opens the slide."""

    def __init__(self, path: str, coords: np.ndarray, read_px: tuple[int, int], side: int) -> None:
        self.path, self.coords, self.read_px, self.side = path, coords, read_px, side
        self._slide: Any = None

    def __len__(self) -> int:
        return len(self.coords)

    def __getitem__(self, index: int) -> Any:
        import openslide
        from torchvision.transforms import functional

        if self._slide is None:
            self._slide = openslide.OpenSlide(self.path)
        place = tuple(self.coords[index].tolist())
        image = self._slide.read_region(place, 0, self.read_px).convert("RGB")
        if image.size != (self.side, self.side):
            image = image.resize((self.side, self.side))
        x = functional.to_tensor(image)
        return functional.normalize(x, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), self.coords[index]


def loops(slide: str, folder: Path, pairs: int, patches: int) -> dict[str, Any]:
    """Slide file to features file."""
    import h5py
    import torch
    from torch.utils.data import DataLoader

    import wsikit
    from wsikit.encoders.lazy import LazyEncoder
    from wsikit.encoders.registry import load_encoder

    store = small_store(slide, folder, patches)
    table = store.patches()
    coords, grid, mpp = table.coords, table.grid, store.mpp
    read_px = (round(grid.side[0]), round(grid.side[1]))
    encoder = load_encoder(f"random:{LOOP_MODEL}", device="cpu")
    lazy = LazyEncoder.of(encoder)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)

    def by_wsikit(precision: str) -> Callable[[], None]:
        def call() -> None:
            shutil.rmtree(folder / "again", ignore_errors=True)
            made = small_store(slide, folder / "again", patches)
            wsikit.features(made, encoder=lazy, engine="torch", precision=precision, dtype="float32")

        return call

    def common() -> None:
        loader = DataLoader(SlidePatches(slide, coords, read_px, grid.patch_px), batch_size=32, num_workers=cores)
        with h5py.File(folder / "common.h5", "w") as file, torch.inference_mode():
            out = file.create_dataset("features", (len(coords), encoder.info.width), "float32")
            places = file.create_dataset("coords", (len(coords), 2), "int64")
            done = 0
            for x, where in loader:
                out[done : done + len(x)] = encoder.module(x).numpy()
                places[done : done + len(x)] = where.numpy()
                done += len(x)

    ways: dict[str, Callable[[], None]] = {
        "common loop (OpenSlide, DataLoader)": common,
        "wsikit, float32": by_wsikit("float32"),
        "wsikit, auto": by_wsikit("auto"),
    }
    found = turns(ways, pairs)
    with h5py.File(folder / "common.h5") as file:
        theirs = file["features"][:]
    by_wsikit("float32")()
    from wsikit.slides.store import SlideStore

    with SlideStore(folder / "again" / "slide.zarr") as again:
        ours = again.patches().read(encoder.info.column)
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    base = found["common loop (OpenSlide, DataLoader)"]
    return {
        "patches": len(coords),
        "slide_mpp": [round(value, 4) for value in mpp],
        "workers": cores,
        **found,
        "times as fast": {
            name: {kind: round(base[kind] / of[kind], 2) for kind in ("wall_s", "cpu_s")}
            for name, of in found.items()
            if name.startswith("wsikit")
        },
        "median cosine of features": round(float(np.median(cosine)), 5),
    }


def peers(slide: str, folder: Path, pairs: int, patches: int, pythons: dict[str, str]) -> dict[str, Any]:
    """Slide file to features file, wsikit and each peer in turns: seconds per patch, as one peer lays its own grid."""
    import torch

    import wsikit
    from wsikit.encoders.lazy import LazyEncoder
    from wsikit.encoders.registry import load_encoder

    with wsikit.open_slide(slide) as opened:
        mpp = max(opened.mpp)  # peers refuse to enlarge
    store = small_store(slide, folder, patches, mpp)
    table = store.patches()
    grid, coords = table.grid, table.coords
    encoder = load_encoder(f"random:{LOOP_MODEL}", device="cpu")
    lazy = LazyEncoder.of(encoder)
    np.save(folder / "coords.npy", coords)
    torch.save(encoder.module.body.state_dict(), folder / "weights.pt")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    job = {
        "slide": str(Path(slide).resolve()), "mpp": store.mpp[0], "coords": str(folder / "coords.npy"),
        "read_px": round(grid.side[0]), "patch_px": grid.patch_px, "weights": str(folder / "weights.pt"),
        "workers": cores, "batch": 32,
    }  # fmt: skip

    def by_wsikit(precision: str) -> Callable[[], None]:
        def call() -> None:
            shutil.rmtree(folder / "again", ignore_errors=True)
            made = small_store(slide, folder / "again", patches, mpp)
            wsikit.features(made, encoder=lazy, engine="torch", precision=precision, dtype="float32")

        return call

    found: dict[str, Any] = {"patches": len(coords), "workers": cores, "load": os.getloadavg()[0]}
    for name, python in pythons.items():
        peer = Peer(name, python, job, folder / name)
        taken = turns({name: peer, "wsikit, float32": by_wsikit("float32"), "wsikit, auto": by_wsikit("auto")}, pairs)
        peer.close()
        from wsikit.slides.store import SlideStore

        with SlideStore(folder / "again" / "slide.zarr") as again:
            ours = again.patches().read(encoder.info.column)
        theirs, scale = np.load(peer.features), len(coords) / peer.patches
        found[name] = {
            "versions": peer.versions,
            "patches": peer.patches,
            **taken,
            "times as fast": {
                way: {kind: round(scale * taken[name][kind] / of[kind], 2) for kind in ("wall_s", "cpu_s")}
                for way, of in taken.items()
                if way.startswith("wsikit")
            },
        }
        if len(theirs) == len(ours):
            cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
            found[name]["median cosine of features"] = round(float(np.median(cosine)), 5)
    return found


MEMORY = """
import sys
import numpy as np, torch, zarr, wsikit
from wsikit.encoders.registry import load_encoder
from wsikit.slides.store import SlideStore
def memory(what):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))
encoder = load_encoder("random:resnet10t", device="cpu")
encoder.encode(np.zeros((8, 176, 176, 3), np.uint8))
before = memory("VmRSS")
table = wsikit.features(SlideStore(sys.argv[1]), encoder=encoder, grid=sys.argv[2], engine="torch")
print(len(table), before, memory("VmHWM"))
"""


def memory(folder: Path) -> list[dict[str, int]]:
    """Peak memory of a process for few and for many patches; Linux only."""
    import wsikit
    from wsikit.phantom import make_phantom

    found = []
    for times, side in ((1, 700), (8, 2000)):
        path = folder / f"phantom_{times}.tiff"
        make_phantom(path, size_px=(side, side), seed=1)
        store = wsikit.tile(path, folder / f"phantom_{times}.zarr", patch_px=64, min_tissue=0.0)
        call = [sys.executable, "-W", "ignore", "-c", MEMORY, str(store.folder), store.patches().name]
        rows, before, peak = subprocess.run(call, capture_output=True, text=True, check=True).stdout.split()
        found.append({"patches": int(rows), "before_mb": round(float(before)), "peak_mb": round(float(peak))})
    return found


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("slide", help="a slide that OpenSlide reads too")
    options.add_argument("--pairs", type=int, default=3, help="turns that count")
    options.add_argument("--patches", type=int, default=96, help="patches of each turn")
    options.add_argument("--precision", default="float32", help="of the share: float32, bfloat16, auto")
    options.add_argument("--only", type=lambda text: text.split(","), default=["share", "loops", "peers", "memory"])
    options.add_argument(
        "--peer-python",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="lazyslide or tiatoolbox, and its Python",
    )
    options.add_argument("--json", type=Path)
    given = options.parse_args()
    result: dict[str, Any] = {"aims": AIMS, "load": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory(prefix="features-") as name:
        folder = Path(name)
        if "share" in given.only:
            result["share"] = {}
            for number, model in enumerate(SHARE_MODELS):
                result["share"][model] = share(
                    given.slide, folder / f"share_{number}", model, given.pairs, given.patches, given.precision
                )
                print(json.dumps({model: result["share"][model]}), flush=True)
        if "loops" in given.only:
            result["loops"] = loops(given.slide, folder / "loops", given.pairs, 2 * given.patches)
            print(json.dumps({"loops": result["loops"]}), flush=True)
        if "peers" in given.only and given.peer_python:
            pythons = dict(one.split("=", 1) for one in given.peer_python)
            result["peers"] = peers(given.slide, folder / "peers", given.pairs, 2 * given.patches, pythons)
            print(json.dumps({"peers": result["peers"]}), flush=True)
        if "memory" in given.only:
            result["memory"] = memory(folder)
            print(json.dumps({"memory": result["memory"]}), flush=True)
    if given.json:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
