"""The measured captioner against outlined nuclei, against the phantom's truth, and against the clock.

    python benchmarks/captions.py --nuclei monuseg.zip --json captions.json
    python benchmarks/captions.py --data ../shared/data --base ../other-build --slides 0

Nuclei: `TUNED` images set the numbers in `wsikit.captions.nuclei.NucleusRule`; the others are held out, and only they
tell how good it is. Patches of 224 px are captioned as in use; the found centres are aggregated. A found and an
outlined nucleus match one to one if their centres lie within 3 µm (and, more leniently, 6 µm). Compared with what ten
lines of scikit-image give: Otsu on the haematoxylin channel, split by a watershed of the distance transform, with
numbers tuned on the same images; with plain Otsu and connected components; and, for counts, with the mean density of
the tuned images. `in_context`: each patch is seen with 16 µm of its surroundings, and nuclei whose centre lies in it
count whole; without, the captioner counts a nucleus that the edge cuts half.

Phantom: slides of seeds that nothing was tuned on; correlation per fact, agreement of words, and how well a bag of
words of the captions alone tells the classes apart. Speed: one core, as a ratio to rgb2hed of scikit-image on the same
patches.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy: speed is per core

import argparse
import io
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage as ndi
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from wsikit.captions import fact_f1, load_captioner
from wsikit.captions.nuclei import find_nuclei
from wsikit.captions.pixels import densities, shrink

TUNED = ("TCGA-21-5784-01Z-00-DX1", "TCGA-50-5931-01Z-00-DX1", "TCGA-AR-A1AK-01Z-00-DX1", "TCGA-B0-5698-01Z-00-DX1")
PATCH_PX = 224
TRAIN_SEEDS, TEST_SEEDS = 700_000, 800_000  # of the phantom; its model was trained on others

CONTEXT_UM = 16.0
PEER = {"blur_um": 0.5, "share": 0.9, "depth_blur_um": 1.0, "apart_um": 1.5}
"""Of 162 combinations at 0.5 µm/px, the one with the highest F1 within 3 µm on the tuned images."""


class Found(NamedTuple):
    """N nuclei of a patch."""

    centres: npt.NDArray[np.float64]
    """(N, 2) y, x, px of the patch."""
    area_um2: npt.NDArray[np.float64]
    mask: npt.NDArray[np.bool_]
    """(h, w)."""
    number: float
    """As the method states it."""


@dataclass(frozen=True)
class Outlined:
    """One image with its outlined nuclei."""

    name: str
    image: npt.NDArray[np.uint8]
    mpp: float
    mask: npt.NDArray[np.bool_]
    centres: npt.NDArray[np.float64]
    """(N, 2) y, x, px."""
    area_um2: npt.NDArray[np.float64]

    def halved(self) -> Outlined:
        """The same at twice the µm per pixel."""
        height, width = (n // 2 * 2 for n in self.mask.shape)
        blocks = self.image[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
        image = np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)
        return Outlined(
            self.name, image, 2 * self.mpp, self.mask[:height:2, :width:2], (self.centres - 0.5) / 2, self.area_um2
        )


def read_outlined(path: Path) -> list[Outlined]:
    """The images of a MoNuSeg-like zip (PNG and Aperio XML), by name."""
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".xml"))
        return [_read_one(archive, name) for name in names]


def _read_one(archive: zipfile.ZipFile, name: str) -> Outlined:
    from skimage.draw import polygon

    image = np.asarray(Image.open(io.BytesIO(archive.read(name[:-4] + ".png"))).convert("RGB"))
    root = ElementTree.fromstring(archive.read(name))
    mpp = float(root.attrib["MicronsPerPixel"])
    mask, centres, areas = np.zeros(image.shape[:2], bool), [], []
    for region in root.iter("Region"):
        outline = np.array([[float(vertex.attrib["Y"]), float(vertex.attrib["X"])] for vertex in region.iter("Vertex")])
        rows, columns = polygon(outline[:, 0], outline[:, 1], mask.shape) if len(outline) > 2 else ([], [])
        if len(rows) * mpp**2 < 1.0:  # slips of the pen
            continue
        mask[rows, columns] = True
        centres.append((rows.mean(), columns.mean()))
        areas.append(len(rows) * mpp**2)
    return Outlined(Path(name).stem, image, mpp, mask, np.array(centres), np.array(areas))


def ours(image: npt.NDArray[np.uint8], mpp: float) -> Found:
    """As the captioner sees it."""
    small, small_mpp = shrink(image, mpp, finest_mpp=0.5)
    nuclei = find_nuclei(densities(small, small_mpp))
    k = round(small_mpp / mpp)
    mask = np.zeros(image.shape[:2], bool)
    big = np.kron(nuclei.labels > 0, np.ones((k, k), bool))
    mask[: big.shape[0], : big.shape[1]] = big
    return Found((np.stack([nuclei.y, nuclei.x], axis=1) + 0.5) * k - 0.5, nuclei.area_um2, mask, nuclei.number)


def plain_otsu(image: npt.NDArray[np.uint8], mpp: float) -> Found:
    """The floor: Otsu's threshold on the haematoxylin channel, connected components of 12 µm² and more."""
    from skimage.color import rgb2hed
    from skimage.filters import threshold_otsu

    haematoxylin = rgb2hed(image)[..., 0]
    return _large_enough(ndi.label(haematoxylin > threshold_otsu(haematoxylin))[0], mpp)


def distance_watershed(image: npt.NDArray[np.uint8], mpp: float) -> Found:
    """The fair peer: Otsu's threshold on the haematoxylin channel, split by a watershed of the distance transform."""
    from skimage.color import rgb2hed
    from skimage.feature import peak_local_max
    from skimage.filters import threshold_otsu
    from skimage.segmentation import watershed

    haematoxylin = ndi.gaussian_filter(rgb2hed(image)[..., 0], PEER["blur_um"] / mpp)
    mask = haematoxylin > PEER["share"] * threshold_otsu(haematoxylin)
    depth = ndi.gaussian_filter(ndi.distance_transform_edt(mask), PEER["depth_blur_um"] / mpp)
    apart = max(1, round(PEER["apart_um"] / mpp))
    peaks = peak_local_max(depth, min_distance=apart, labels=mask.astype(int), exclude_border=False)
    markers = np.zeros(mask.shape, int)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    return _large_enough(watershed(-depth, markers, mask=mask), mpp)


def _large_enough(labels: npt.NDArray[Any], mpp: float) -> Found:
    """Those of 12 µm² and more."""
    area = np.bincount(labels.ravel()) * mpp**2
    kept = area >= 12
    kept[0] = False
    centres = np.array(ndi.center_of_mass(labels > 0, labels, np.flatnonzero(kept))).reshape(-1, 2)
    return Found(centres, area[kept], kept[labels], float(len(centres)))


def detection_f1(found: npt.NDArray[np.float64], truth: npt.NDArray[np.float64], reach_px: float) -> float:
    """F1 of one-to-one matches within `reach_px`, as many as possible, the nearest first."""
    if len(found) == 0 or len(truth) == 0:
        return 0.0
    distance = cdist(found, truth)
    rows, columns = linear_sum_assignment(np.where(distance <= reach_px, distance, 1e6))
    hits = np.count_nonzero(distance[rows, columns] <= reach_px)
    return float(2 * hits / (len(found) + len(truth)))


def score_image(
    outlined: Outlined, finder: Callable[[npt.NDArray[np.uint8], float], Found], context_um: float = 0.0
) -> dict[str, Any]:
    """Figures of one image, cut into patches of `PATCH_PX`, each seen with `context_um` of its surroundings."""
    n = min(outlined.mask.shape) // PATCH_PX
    corners = [(row * PATCH_PX, column * PATCH_PX) for row in range(n) for column in range(n)]
    centres, areas, counts, overlap, total = [], [], [], 0, 0
    for y, x in corners:
        box = np.s_[y : y + PATCH_PX, x : x + PATCH_PX]
        found = _seen_in_context(outlined, finder, y, x, context_um)
        inside = ((outlined.centres >= [y, x]) & (outlined.centres < [y + PATCH_PX, x + PATCH_PX])).all(axis=1)
        counts.append((found.number, int(inside.sum())))
        centres.append(found.centres + [y, x])
        areas.append(found.area_um2)
        overlap += np.count_nonzero(found.mask & outlined.mask[box])
        total += np.count_nonzero(found.mask) + np.count_nonzero(outlined.mask[box])
    within = (outlined.centres < n * PATCH_PX).all(axis=1)
    all_found, truth = np.concatenate(centres), outlined.centres[within]
    return {
        "image": outlined.name,
        "found": len(all_found),
        "outlined": len(truth),
        "count_error": round(len(all_found) / len(truth) - 1, 3),
        "f1_3um": round(detection_f1(all_found, truth, 3 / outlined.mpp), 3),
        "f1_6um": round(detection_f1(all_found, truth, 6 / outlined.mpp), 3),
        "dice": round(2 * overlap / max(1, total), 3),
        "diameter_um": round(_middle_diameter(np.concatenate(areas)), 2),
        "diameter_outlined_um": round(_middle_diameter(outlined.area_um2[within]), 2),
        "patch_counts": counts,
    }


def _seen_in_context(
    outlined: Outlined, finder: Callable[[npt.NDArray[np.uint8], float], Found], y: int, x: int, context_um: float
) -> Found:
    """What is found in one patch; with context, the nuclei whose centre lies in it."""
    margin = 2 * round(context_um / outlined.mpp / 2)  # even, as patches are halved
    top, left = max(0, y - margin), max(0, x - margin)
    seen = outlined.image[top : y + PATCH_PX + margin, left : x + PATCH_PX + margin]
    found = finder(seen, outlined.mpp)
    if margin == 0:
        return found
    centres = found.centres - [y - top, x - left]
    inside = ((centres >= -0.5) & (centres < PATCH_PX - 0.5)).all(axis=1)
    mask = found.mask[y - top : y - top + PATCH_PX, x - left : x - left + PATCH_PX]
    return Found(centres[inside], found.area_um2[inside], mask, float(inside.sum()))


def _middle_diameter(area_um2: npt.NDArray[np.float64]) -> float:
    """Median by area, as the captioner states it."""
    if len(area_um2) == 0:
        return 0.0
    area = np.sort(area_um2)
    return float(np.sqrt(4 / np.pi * area[np.searchsorted(np.cumsum(area), area.sum() / 2)]))


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Means over images; correlation and relative error of the counts over all their patches."""
    counts = np.array([pair for row in rows for pair in row["patch_counts"]], float)
    found, truth = counts.T
    return {
        "abs_count_error": round(float(np.mean([abs(row["count_error"]) for row in rows])), 3),
        "f1_3um": round(float(np.mean([row["f1_3um"] for row in rows])), 3),
        "f1_6um": round(float(np.mean([row["f1_6um"] for row in rows])), 3),
        "dice": round(float(np.mean([row["dice"] for row in rows])), 3),
        "patch_count_r": round(float(np.corrcoef(found, truth)[0, 1]), 3),
        "patch_count_mae": _relative_mae(found, truth),
        "abs_diameter_error": round(
            float(np.mean([abs(row["diameter_um"] / row["diameter_outlined_um"] - 1) for row in rows])), 3
        ),
    }


def _relative_mae(found: npt.NDArray[np.float64], truth: npt.NDArray[np.float64]) -> float:
    return round(float(np.abs(found - truth).mean() / truth.mean()), 3)


def nuclei_report(path: Path) -> dict[str, Any]:
    """Per scale and half of the images: rows, and summaries of each method."""
    report: dict[str, Any] = {}
    images = read_outlined(path)
    for scale, outlined in (("0.25", images), ("0.5", [image.halved() for image in images])):
        tuned = [image for image in outlined if image.name in TUNED]
        per_um2 = float(np.mean([len(image.centres) / image.mask.size / image.mpp**2 for image in tuned]))
        for half in ("tuned", "held_out"):
            chosen = [image for image in outlined if (image.name in TUNED) == (half == "tuned")]
            rows = [score_image(image, ours) for image in chosen]
            truth = np.array([pair[1] for row in rows for pair in row["patch_counts"]], float)
            guess = [per_um2 * (PATCH_PX * image.mpp) ** 2 for image in chosen]
            constant = np.concatenate(
                [np.full(len(row["patch_counts"]), one) for row, one in zip(rows, guess, strict=True)]
            )
            report[f"{half} at {scale}"] = {
                "ours": summary(rows),
                "ours_in_context": summary([score_image(image, ours, CONTEXT_UM) for image in chosen]),
                "distance_watershed": summary([score_image(image, distance_watershed) for image in chosen]),
                "distance_watershed_in_context": summary(
                    [score_image(image, distance_watershed, CONTEXT_UM) for image in chosen]
                ),
                "plain_otsu": summary([score_image(image, plain_otsu) for image in chosen]),
                "constant_density": {"patch_count_mae": _relative_mae(constant, truth)},
                "images": [{key: value for key, value in row.items() if key != "patch_counts"} for row in rows],
            }
    return report


CELLS = ("differentiating", "ganglion", "neuroblast", "mitosis", "karyorrhexis", "lymphocyte", "spindle", "endothelial")


def phantom_report(n_slides: int, per_slide: int) -> dict[str, Any]:
    """Facts and words against the truth of synthetic slides, 0.5 µm/px, without blurred, folded or inked patches."""
    from wsikit.phantom import phantom_patches

    captioner = load_captioner()

    def collect(first: int) -> tuple[list[Any], list[Any]]:
        patches = [
            patch
            for patch in phantom_patches(range(first, first + n_slides), per_slide)
            if patch.facts.artefacts.max() < 0.1
        ]
        return patches, [captioner.caption(patch.image[None], mpp=0.5)[0] for patch in patches]

    patches, captions = collect(TEST_SEEDS)
    train_patches, train_captions = collect(TRAIN_SEEDS)
    references = [patch.caption for patch in patches]
    texts = [caption.text for caption in captions]
    usual = _usual_caption([patch.caption for patch in train_patches])
    return {
        "n_patches": len(patches),
        "facts": _fact_rows(patches, captions),
        "fact_f1": _f1_row(references, texts),
        "fact_f1_of_the_usual_reference": _f1_row(references, [usual] * len(texts)),
        "classes_from_words": _classes_from_words(
            [caption.text for caption in train_captions],
            [patch.label for patch in train_patches],
            texts,
            [patch.label for patch in patches],
        ),
    }


def _fact_rows(patches: Sequence[Any], captions: Sequence[Any]) -> dict[str, dict[str, float]]:
    tumour = np.array([patch.label < 3 for patch in patches])

    def count(*kinds: str) -> npt.NDArray[np.float64]:
        return np.array([sum(int(patch.facts.count(kind)[0]) for kind in kinds) for patch in patches], float)

    def fraction(kind: str) -> npt.NDArray[np.float64]:
        return np.array([float(patch.facts.fraction(kind)[0]) for patch in patches])

    everywhere = np.ones(len(patches), bool)
    maturing = count("differentiating", "ganglion") / np.maximum(1, count("differentiating", "ganglion", "neuroblast"))
    truths = {
        "nuclei": (count(*CELLS), everywhere, 0.5),
        "fibrillary_share": (fraction("neuropil"), tumour, 0.03),
        "rosette_like": (count("rosette"), tumour, 0.5),
        "ganglion_like_share": (maturing, tumour, 0.02),
        "spindle_share": (fraction("stroma"), everywhere, 0.1),
        "necrosis_share": (fraction("necrosis"), everywhere, 0.1),
        "blood_share": (fraction("blood"), everywhere, 0.05),
        "fat_share": (fraction("fat"), everywhere, 0.1),
    }
    rows = {}
    for name, (truth, chosen, least) in truths.items():
        stated = np.array([name in caption.facts for caption in captions]) & chosen
        value = np.array([caption.facts.get(name, 0.0) for caption in captions])[stated]
        there, truth = truth[stated] > least, truth[stated]
        rows[name] = {
            "n": int(stated.sum()),
            "r": round(float(np.corrcoef(value, truth)[0, 1]), 3),
            "mean": round(float(value.mean()), 3),
            "mean_true": round(float(truth.mean()), 3),
            "auroc": round(_auroc(value, there), 3),
        }
    return rows


def _auroc(value: npt.NDArray[np.float64], there: npt.NDArray[np.bool_]) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(there, value)) if 0 < there.sum() < len(there) else float("nan")


def _f1_row(references: list[str], candidates: list[str]) -> dict[str, float]:
    score = fact_f1(references, candidates)
    return {"f1": round(score.f1, 3), "precision": round(score.precision, 3), "recall": round(score.recall, 3)}


def _usual_caption(references: Sequence[str]) -> str:
    """The reference given most often."""
    texts, counts = np.unique(np.array(references), return_counts=True)
    return str(texts[np.argmax(counts)])


def _classes_from_words(
    train: list[str], train_labels: list[int], test: list[str], test_labels: list[int]
) -> dict[str, float]:
    """Balanced accuracy of a bag of words and a logistic regression: 4 classes, and the 3 tumour classes alone."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline

    result = {}
    for name, n_classes in (("four", 4), ("three_tumour", 3)):
        pairs = [
            [(text, label) for text, label in zip(texts, labels, strict=True) if label < n_classes]
            for texts, labels in ((train, train_labels), (test, test_labels))
        ]
        model = make_pipeline(CountVectorizer(ngram_range=(1, 3), min_df=3), LogisticRegression(max_iter=2000))
        model.fit(*map(list, zip(*pairs[0], strict=True)))
        predicted = model.predict([text for text, _ in pairs[1]])
        result[name] = round(float(balanced_accuracy_score([label for _, label in pairs[1]], predicted)), 3)
    return result


def speed_report(images: npt.NDArray[np.uint8], mpp: float, repeats: int) -> dict[str, float]:
    """Patches per second of one core, and the ratio to rgb2hed: processor time, so that others' work counts little.

    The two take turns over all the patches; the fastest turn of each counts.
    """
    from skimage.color import rgb2hed

    captioner = load_captioner()
    captioner.caption(images[:1], mpp=mpp)
    own, other = [], []
    for _ in range(repeats):
        start = time.process_time()
        captioner.caption(images, mpp=mpp)
        middle = time.process_time()
        for image in images:
            rgb2hed(image)
        own.append((middle - start) / len(images))
        other.append((time.process_time() - middle) / len(images))
    return {
        "patches_per_second": round(1 / min(own), 1),
        "ms_per_patch": round(1000 * min(own), 2),
        "rgb2hed_ms": round(1000 * min(other), 2),
        "ratio_to_rgb2hed": round(min(own) / min(other), 2),
    }


def _print(report: dict[str, Any]) -> None:
    for name, part in report.get("nuclei", {}).items():
        print(f"nuclei, {name} µm/px")
        for row in part["images"]:
            print("   ", "  ".join(f"{key} {value}" for key, value in row.items()))
        for method in (name for name in part if name != "images"):
            print(f"  {method:29}", "  ".join(f"{key} {value}" for key, value in part[method].items()))
    for name, row in report.get("phantom", {}).get("facts", {}).items():
        print(f"phantom {name:20}", "  ".join(f"{key} {value}" for key, value in row.items()))
    for name, row in report.get("phantom", {}).items():
        if name != "facts":
            print("phantom", name, row)
    print("speed", report.get("speed"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nuclei", type=Path, help="zip of PNG images with Aperio XML outlines (MoNuSeg)")
    parser.add_argument("--slides", type=int, default=24, help="phantom slides to test on, as many to train on")
    parser.add_argument("--per-slide", type=int, default=12, help="patches per phantom slide")
    parser.add_argument("--repeats", type=int, default=7, help="of the timing")
    parser.add_argument("--data", type=Path, help="folder with slides/, patches/ and nuclei/: real patches for --base")
    parser.add_argument(
        "--base", type=Path, metavar="DIR", help="source tree of another build to compare the speed with"
    )
    parser.add_argument("--pairs", type=int, default=7, help="measurements of each build, in turns")
    parser.add_argument("--only", default="", help="with --base: sets of patches whose name holds this")
    parser.add_argument("--json", type=Path, help="write the result here")
    options = parser.parse_args()
    report: dict[str, Any] = {}
    if options.data and not options.nuclei and (options.data / "nuclei" / "monuseg.zip").is_file():
        options.nuclei = options.data / "nuclei" / "monuseg.zip"
    if options.base:  # first, while nothing else is in memory
        from caption_speed import speed_against

        report["against base"] = speed_against(options.base, options.data, options.pairs, options.only)
    if options.nuclei:
        report["nuclei"] = nuclei_report(options.nuclei)
    if options.slides:
        report["phantom"] = phantom_report(options.slides, options.per_slide)
    report["speed"] = speed_report(_speed_patches(options.nuclei), 0.5, options.repeats)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    _print(report)


def _speed_patches(path: Path | None) -> npt.NDArray[np.uint8]:
    """Real patches at 0.5 µm/px where there are any, else of the phantom: uint8 (B, 224, 224, 3)."""
    if path:
        images = [outlined.halved().image for outlined in read_outlined(path)]
        return np.stack([image[:PATCH_PX, :PATCH_PX] for image in images] * 6)
    from wsikit.phantom import phantom_patches

    return np.stack([patch.image for patch in phantom_patches(range(TEST_SEEDS, TEST_SEEDS + 3), 4)])


if __name__ == "__main__":
    main()
