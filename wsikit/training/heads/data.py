"""Labelled features: of stores, from their column; of images, from a file or by an encoder."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.encoders.protocol import COLUMN_PREFIX, PatchEncoder
from wsikit.errors import RequestError
from wsikit.inference.feature_columns import encoder_record, how_to_compute
from wsikit.models.model_folder import EncoderRecord
from wsikit.training.baselines import colour_histogram
from wsikit.training.data import PatchSet, groups_of, plan_images
from wsikit.training.datasets.classes import class_indices
from wsikit.training.datasets.configured import configured_table, words_of_dropped
from wsikit.training.datasets.stores import StorePixels
from wsikit.training.datasets.table import ImageTable
from wsikit.training.heads.feature_file import read_feature_file
from wsikit.training.task import DataConfig, FeatureInput, TaskConfig

logger = logging.getLogger(__name__)

_HALF_MAX = float(np.finfo(np.float16).max)

OnDone = Callable[[int, int], None]
Load = Callable[[str], PatchEncoder]


@dataclass(frozen=True)
class FeatureSet:
    """N labelled patches with features; row i of each field is one patch."""

    patches: PatchSet
    """Labels, groups, slides and ids; its images have no pixels."""
    features: npt.NDArray[np.float32]
    """(N, D), finite."""
    colours: npt.NDArray[np.float32] | None
    """(N, 48), colour histograms; None: not computed."""
    encoder: EncoderRecord
    mpp: float
    """µm/px of the patches."""
    computed: bool
    """Whether an encoder was run for it."""
    words: str
    """Summary in one or more sentences."""

    def __len__(self) -> int:
        return len(self.patches)

    def select(self, rows: npt.NDArray[np.integer]) -> FeatureSet:
        """Only these rows, in this order."""
        colours = None if self.colours is None else self.colours[rows]
        return replace(self, patches=self.patches.select(rows), features=self.features[rows], colours=colours)


def load_features(
    config: TaskConfig,
    image: FeatureInput,
    *,
    colours: bool,
    device: str = "auto",
    load: Load | None = None,
    on_done: OnDone = lambda done, total: None,
) -> FeatureSet:
    """Load the labels and features of a configuration. Patches whose features are not finite are left out and counted.

    Parameters
    ----------
    image
        Whose features, and where they are.
    colours
        Also compute colour histograms, which needs the pixels.
    device
        Where the encoder runs, if features have to be computed: "auto", "cpu", "cuda".
    load
        Gives the encoder of a name; default: `wsikit.encoders.registry.load_encoder`.
    on_done
        Called with the number of images that are done, and the total, while an encoder runs.

    Raises
    ------
    RequestError
        If a part of the data, or a column of features, is missing or inconsistent.
    """
    mapped, mpp = configured_table(config)
    found = features_of_table(
        mapped.table, mpp, config.name, config.data, config.codes, image,
        colours=colours, device=device, load=load, on_done=on_done,
    )  # fmt: skip
    return replace(found, words=found.words + words_of_dropped(mapped.dropped))


def features_of_table(
    table: ImageTable,
    mpp: float,
    name: str,
    data: DataConfig,
    codes: tuple[str, ...],
    image: FeatureInput,
    *,
    colours: bool = False,
    device: str = "auto",
    load: Load | None = None,
    on_done: OnDone = lambda done, total: None,
) -> FeatureSet:
    """`load_features` of a table whose classes are `codes`; `name` is for messages."""
    wanted = image
    made_for: float | None = None
    if isinstance(table.pixels, StorePixels):
        features, encoder = _stored(table.pixels, np.asarray(table.rows), wanted.features, data.patch_px)
        histograms = _colours(table) if colours else None
        words, computed = f"{len(table)} patches of {len(table.pixels.folders)} stores at {mpp:.4g} µm/px", False
    else:
        plan = plan_images(table, patch_px=data.patch_px, odd_sizes=data.odd_sizes)
        table, mpp = plan.table, mpp * plan.side / plan.patch_px
        words = f"{len(table)} images of {plan.patch_px} px at {mpp:.4g} µm/px"
        words += f", {plan.dropped} of another size left out" if plan.dropped else ""
        words += f", {plan.mirrored} padded by mirroring" if plan.mirrored else ""
        run = None
        if wanted.file is not None:
            found = read_feature_file(wanted.file, table.files)
            features = np.asarray(found.features, dtype=np.float32)
            encoder = EncoderRecord.of_stored(found.encoder or {"name": wanted.features}, features.shape[1])
            if encoder.name != wanted.features and found.encoder:
                logger.warning("%s: features of %s, the file says %s", name, wanted.features, encoder.name)
        else:
            run = (load or encoder_loader(device))(wanted.features)
        computed = run is not None
        seen = _Pixels(run, colours)
        if run is not None or colours:
            for rows, images in plan.batches(wanted.batch):
                seen.add(images)
                if run is not None:
                    on_done(rows.stop, len(table))
        if run is not None:
            made_for = run.info.mpp
            given_as = "" if Path(wanted.features).exists() else wanted.features  # a model may be shared, a path not
            features, about = seen.features(), run.info.record() | {"given_as": given_as}
            encoder = EncoderRecord.of_stored(about, run.info.width)
        histograms = seen.colours()
    whole = FeatureSet(patches_of_table(table, data, codes), features, histograms, encoder, mpp, computed, "")
    finite = np.isfinite(features).all(axis=1)
    if not finite.any():
        raise RequestError(f"{table.source}: no patch has features of {encoder.name} that are finite.")
    words += f"; {encoder.width} features each, of {encoder.name}"
    if made_for is not None and abs(mpp / made_for - 1) > 0.1:
        words += f", which was made for {made_for:g} µm/px"
    if not finite.all():
        words += f"; {np.count_nonzero(~finite)} left out, as their features are not finite"
        whole = whole.select(np.flatnonzero(finite))
    return replace(whole, words=words + ".")


class _Pixels:
    """What is computed from the pixels, batch by batch: features and colour histograms."""

    def __init__(self, encoder: PatchEncoder | None, colours: bool) -> None:
        self._encoder, self._with_colours = encoder, colours
        self._features: list[npt.NDArray[np.float32]] = []
        self._colours: list[npt.NDArray[np.float32]] = []

    def add(self, images: npt.NDArray[np.uint8]) -> None:
        if self._encoder is not None:
            self._features.append(self._encoder.encode(images))
        if self._with_colours:
            self._colours.append(colour_histogram(images))

    def features(self) -> npt.NDArray[np.float32]:
        """As stored features: rounded to float16 where none is out of its range."""
        features = np.concatenate(self._features)
        finite = features[np.isfinite(features)]
        if not len(finite) or np.abs(finite).max() <= _HALF_MAX:
            return features.astype(np.float16).astype(np.float32)
        return features

    def colours(self) -> npt.NDArray[np.float32] | None:
        return np.concatenate(self._colours) if self._colours else None


def _colours(table: ImageTable, at_once: int = 256) -> npt.NDArray[np.float32]:
    """Colour histograms of the patches of stores."""
    parts = [range(first, min(first + at_once, len(table))) for first in range(0, len(table), at_once)]
    return np.concatenate([colour_histogram(np.stack(table.images(rows))) for rows in parts])


def patches_of_table(table: ImageTable, data: DataConfig, codes: tuple[str, ...]) -> PatchSet:
    """Labels, groups, slides and ids of a table, without pixels. RequestError if a class does not occur."""
    labels = class_indices(table, codes)
    if absent := [code for index, code in enumerate(codes) if not (labels == index).any()]:
        raise RequestError(f"{table.source}: no patch of class {', '.join(absent)}. Leave the class out, or add data.")
    return PatchSet(
        images=np.zeros((len(table), 0, 0, 3), np.uint8),
        labels=labels,
        groups=groups_of(table, data.group),
        captions=("",) * len(table),
        ids=table.files,
        slides=None if None in table.slides else np.array(table.slides, dtype=np.str_),
        coords=table.coords,
        classes=codes,
    )


def _stored(
    pixels: StorePixels, rows: npt.NDArray[np.int64], name: str, patch_px: int
) -> tuple[npt.NDArray[np.float32], EncoderRecord]:
    """The column of the stores for these rows of `pixels`, float32 (N, D), and its encoder."""
    column = COLUMN_PREFIX + name
    features: npt.NDArray[np.float32] | None = None
    first: EncoderRecord | None = None
    for table, there, wanted in pixels.tables(rows):
        if table.grid.patch_px != patch_px:
            raise RequestError(
                f"{table.folder}: patches of {table.grid.patch_px} px, the configuration says {patch_px}. Stored "
                "features cannot be resampled; correct patch_px."
            )
        if column not in table.columns():
            raise RequestError(f"{table.folder}: no complete column {column}. {how_to_compute(table, name)}")
        encoder = EncoderRecord.of_stored(encoder_record(table, column) | {"name": name}, table.width(column) or 0)
        first = first or encoder
        if (encoder.width, encoder.fingerprint) != (first.width, first.fingerprint):
            raise RequestError(
                f"{table.folder}: column {column} has {encoder.width} numbers of an encoder with the fingerprint "
                f"{encoder.fingerprint[:12] or 'unknown'}, other stores {first.width} and "
                f"{first.fingerprint[:12] or 'unknown'}. Compute the features of all stores with one encoder."
            )
        values = np.asarray(table.read(column), dtype=np.float32)[wanted]
        if features is None:
            features = np.empty((len(rows), encoder.width), np.float32)
        features[there] = values
    assert features is not None  # the table has rows
    assert first is not None
    return features, first


def encoder_loader(device: str) -> Load:
    """Loads an encoder by its name, onto this device."""

    def load(name: str) -> PatchEncoder:
        from wsikit.encoders.registry import load_encoder

        encoder: PatchEncoder = load_encoder(name, device=device)
        return encoder

    return load
