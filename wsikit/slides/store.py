"""A slide store as a slide: one Zarr group with the pixels, the tissue label and the patch tables.

Positions are level-0 px, as for every slide. Tiles are read by byte range from the shards, without zarr.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import StoreError
from wsikit.slides.base import BaseSlide, MppLike, SlideInfo
from wsikit.slides.composite import Samples
from wsikit.slides.encoded_tiles import EncodedTiles, TileSource
from wsikit.slides.file_state import FileState
from wsikit.slides.html import slide_html
from wsikit.slides.source_levels import open_source, tiles_of
from wsikit.slides.storage import LevelStorage
from wsikit.slides.store_label import TISSUE, UNREADABLE, check_coarser, read_label
from wsikit.slides.store_levels import StoreLevels
from wsikit.slides.store_record import check_grid, check_levels, read_root, read_tissue
from wsikit.slides.tile_reader import TileReader
from wsikit.slides.types import Channel
from wsikit.store.atomic import read_metadata
from wsikit.store.level_files import REMEDY
from wsikit.store.level_format import LevelFormat
from wsikit.store.paths import place
from wsikit.store.table import PatchTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COMPRESSIONS = {"jpeg": "JPEG", "jpeg2k": "JPEG 2000", "zstd": "Zstandard", "zstd_frame": "Zstandard"}


class SlideStore(BaseSlide):
    """A store written by `wsikit tile`: a slide with its tissue label, patch tables and results.

    Parameters
    ----------
    path
        The folder `<slide_id>.zarr`, or its URL.

    Raises
    ------
    StoreError
        There is no complete store of wsikit at `path`, or its format is not supported.
    UnreachableError
        The server of a URL does not answer.
    """

    reader = "store"

    def __init__(self, path: str | os.PathLike[str], *, mpp: MppLike | None = None, mpp_source: str = "option") -> None:
        self.folder = place(path)
        self.record = self.read_record(self.folder)
        self.holds_pixels: bool = self.record["pixels"] == "stored"
        """False if pixels are read from the slide that the store was made from."""
        downsamples = [(float(x), float(y)) for x, y in self.record["downsamples"]]
        self._source: BaseSlide | None = None
        self._source_state: FileState | None = None
        self._levels: TileReader
        if self.holds_pixels:
            channels = self._stated_channels()
            self._levels = self._stored = StoreLevels(self.folder, len(downsamples), channels)
            check_levels(self.folder, path, self.record, self._stored.formats)
        else:
            self._source, self._source_state = open_source(self.folder, self.record)
            self._levels = tiles_of(self._source)
            downsamples = list(self._source.level_downsamples)
            channels = self._source.info.channels
        source = self.record["source"]
        kept = self.record["mpp"]
        width, height = self.record["dimensions"]
        super().__init__(
            SlideInfo(
                path=str(path),
                reader="store",
                vendor=source["vendor"],
                kind="store",
                dimensions=(int(width), int(height)),
                level_dimensions=self._levels.level_dimensions,
                level_downsamples=tuple(downsamples),
                mpp=(float(kept[0]), float(kept[1])) if kept else None,
                mpp_source=self.record["mpp_source"],
                magnification=self.record["magnification"],
                tile_px=self._levels.tile_px(0),
                compression=_COMPRESSIONS[self._stored.formats[0].codec]
                if self.holds_pixels
                else source["compression"],
                associated=self._associated_names(),
                icc_profile=self._icc_profile(),
                properties=self._vendor_properties(),
                channels=channels,
                scene=source.get("scene"),
            ),
            mpp=mpp,
            mpp_source=mpp_source,
        )

    @staticmethod
    def read_record(folder: str | os.PathLike[str]) -> dict[str, Any]:
        """`attributes.wsikit` of a complete store of a readable format; StoreError otherwise."""
        return read_root(place(folder), folder)

    @property
    def slide_id(self) -> str:
        return str(self.record["slide_id"])

    @property
    def fingerprint(self) -> str:
        """Digest of the source and the parameters of the pixels; everything derived from the pixels depends on it."""
        return str(self.record["receipt"]["digest"])

    @property
    def unreadable_tiles(self) -> list[list[tuple[int, int]]]:
        """Per level, the tiles (column, row) whose pixels could not be read from the source, or whose file is lost."""
        if not self.holds_pixels:
            return [[] for _ in self.level_dimensions]
        return [sorted(files.unreadable | files.lost_tiles()) for files in self._stored.files]

    def damaged_files(self) -> dict[str, str]:
        """Files of the pixels that are missing or cut off, and the fault of each, in words. By listing; no decoding."""
        if not self.holds_pixels:
            return {}
        faults: dict[str, str] = {}
        for levels in (self._stored, *map(self._picture, self._associated_names())):
            for files, found in zip(levels.files, levels.damaged(), strict=True):
                faults |= {str(files.path(place)): fault for place, fault in found.items()}
        return faults

    def check_complete(self) -> None:
        """StoreError if a file of the pixels is missing or cut off: what is computed from them would be wrong."""
        faults = self.damaged_files()
        if faults:
            path, fault = next(iter(faults.items()))
            more = f" (and {len(faults) - 1} more files)" if len(faults) > 1 else ""
            raise StoreError(f"{path}: {fault}{more}. {REMEDY}")

    @property
    def source_state(self) -> FileState | None:
        """Of the slide when it was opened; None if the store holds the pixels."""
        return self._source_state

    def check_source(self, *, complete: bool) -> None:
        """SlideError if the store reads the pixels of its slide, and the slide has changed since it was opened.

        Call it before results of pixels are kept; `complete` says whether all of these could be read.
        """
        if self._source_state is not None:
            self._source_state.check_read(self.record["source"]["fingerprint"], complete=complete)

    def tile_px(self, level: int) -> tuple[int, int]:
        """Width and height of the tiles of `level`, px."""
        return self._levels.tile_px(level)

    def tile(self, level: int, column: int, row: int, *, keep: bool = True) -> npt.NDArray[np.uint8]:
        """One complete tile, uint8 (h, w, 3), read-only; ReadError where it cannot be read."""
        return self._levels.tile(level, column, row, keep=keep)

    def drop_tiles(self) -> None:
        """Release the memory of decoded tiles that are kept for later reads, which will decode them again."""
        self._levels.drop_tiles()

    def passing_tile(
        self, level: int, column: int, row: int, scratch: npt.NDArray[np.uint8], *, keep: bool
    ) -> npt.NDArray[np.uint8]:
        """`tile` where nothing else requests the same tile at the same time; without `keep` it may be `scratch`."""
        return self._levels.passing_tile(level, column, row, scratch, keep=keep)

    def level_format(self, level: int) -> LevelFormat:
        """Format of a level in the store; StoreError if the store holds no pixels."""
        self._check_holds_pixels()
        return self._stored.formats[level]

    def chunk(self, level: int, col: int, row: int) -> bytes | None:
        """The bytes of one tile as they are stored; None if it is not stored (fill value).

        Raises
        ------
        ReadError
            The source could not be read there when the store was made, or the chunk is damaged.
        StoreError
            The store holds no pixels.
        """
        self._check_holds_pixels()
        return self._stored.encoded(level, col, row)

    def level_record(self, level: int) -> dict[str, Any]:
        """Attributes of a level's pixels: fidelity, lossless, missing_tiles, …; empty without pixels."""
        if not self.holds_pixels:
            return {}
        return dict(self._stored.records[level])

    def storage(self) -> tuple[LevelStorage, ...]:
        """Per level, how the store holds its tiles; without pixels, how a store would hold those of the source."""
        if self._source is not None:
            return self._source.storage()
        found = []
        for level in range(len(self.level_dimensions)):
            record = self.level_record(level)
            kept = record.get("fidelity")
            reason = record.get("reencoded_because")
            if reason is None and record.get("source_level") is None:
                reason = "the slide has no level of this size: it is averaged from the level before"
            found.append(LevelStorage(level, None if kept == "encoded" else kept, reason))
        return tuple(found)

    def pass_through_fault(self, level: int) -> str | None:
        """Why another store cannot keep the tiles of `level` as they are; None if it can."""
        if self._source is not None:
            return self._source.pass_through_fault(level)
        codec = self._stored.formats[level].codec
        return None if codec in ("jpeg", "jpeg2k") else f"the store's tiles are coded by {codec}, not as JPEG"

    def tile_source(self, level: int) -> TileSource | None:
        """Format of the tiles of `level`, which another store keeps as they are; None if it cannot."""
        if self._source is not None:
            return self._source.tile_source(level) if isinstance(self._source, EncodedTiles) else None
        form, record = self._stored.formats[level], self.level_record(level)
        if form.codec not in ("jpeg", "jpeg2k"):
            return None
        return TileSource(
            form.tile_px,
            form.codec,
            form.channels,
            rewrapped=record.get("fidelity") == "coefficients",
            subsampled=bool(record.get("chunk_border_upsampling")),
        )

    def encoded_tile(self, level: int, column: int, row: int) -> bytes | None:
        """One tile as it is stored; None if none is stored there; ReadError if it cannot be read."""
        if isinstance(self._source, EncodedTiles):
            return self._source.encoded_tile(level, column, row)
        return self.chunk(level, column, row)

    def grids(self) -> list[str]:
        """Names of the patch grids, e.g. 0.5um_224px."""
        return sorted(
            path.parent.name
            for path in (self.folder / "patches").glob("*/zarr.json")
            if not path.parent.name.startswith(".") and read_metadata(path.parent) is not None
        )

    def patches(self, grid: str | None = None) -> PatchTable:
        """The patch table of `grid`; without a name, of the only grid.

        Raises
        ------
        StoreError
            There is no such grid, or there are several and none is named.
        """
        names = self.grids()
        if grid is None and len(names) == 1:
            grid = names[0]
        if grid in names:
            table = PatchTable(self.folder / "patches" / grid, store_format=int(self.record["format"]))
            check_grid(table, self.record)
            return table
        if not names:
            raise StoreError(f"{self.folder}: no patch table yet. Run wsikit tile {self.folder.stem} … first.")
        raise StoreError(
            f"{self.folder}: patch grid {'not named' if grid is None else f'{grid!r} requested'}; "
            f"there are {', '.join(names)}. Name one of them."
        )

    def tissue(self) -> tuple[npt.NDArray[np.bool_], tuple[float, float]]:
        """Tissue mask, bool (h, w), and its downsample along x and y (level-0 px per mask px)."""
        downsample = self.tissue_record()["downsample"]
        mask: npt.NDArray[np.bool_] = self._tissue_label() == TISSUE
        return mask, (float(downsample[0]), float(downsample[1]))

    def check_tissue(self) -> None:
        """Read all levels of the tissue mask. StoreError if a file of it is lost, or a level differs from the first."""
        check_coarser(self.folder / "labels" / "tissue", self._tissue_label(), len(self.level_dimensions))

    def unreadable_mask(self) -> npt.NDArray[np.bool_]:
        """Where the slide could not be read, bool (h, w), at the tissue mask's downsample."""
        mask: npt.NDArray[np.bool_] = self._tissue_label() == UNREADABLE
        return mask

    def tissue_record(self) -> dict[str, Any]:
        """Record of the tissue mask: area_mm2, stain, unreadable_fraction, parameters, receipt."""
        return read_tissue(self.folder, self.folder)

    def findings(self) -> dict[str, str]:
        """Contents of the store besides pixels, for display: tissue, patch tables with their columns, votes."""
        found: dict[str, str] = {}
        if (self.folder / "labels" / "tissue").is_dir():
            record = self.tissue_record()
            found["tissue"] = f"{record['area_mm2']:.3g} mm², {record['stain']}"
        for name in self.grids():
            table = self.patches(name)
            found[f"patches {name}"] = f"{len(table)} rows: {', '.join(table.columns())}"
            for method, vote in table.votes().items():
                label = vote["label"]
                words = f"abstained, {vote['reason']}" if label is None else vote["classes"][label]
                found[f"vote ({method})"] = words
        return found

    def show(self, *, grid: str | None = None, column: str | None = None, method: str = "mean") -> Figure:
        """The slide with the subtype map over it, or with a column as a heat map: a figure that Jupyter displays.

        Axes are in mm. A store without predictions shows the slide alone. See `wsikit.results.display.show`.

        Parameters
        ----------
        grid
            Name of the patch grid, where several have predictions.
        column
            Quantity to draw in place of the classes, such as "ood_score" or "caption_facts:nuclei_per_mm2".
        method
            Vote that is stated in the title.
        """
        figure: Figure = _display().show(self, grid=grid, column=column, method=method)
        return figure

    def gallery(self, n: int = 12, by: str | None = None, *, grid: str | None = None, lowest: bool = False) -> Figure:
        """`n` patches with their captions: a figure that Jupyter displays.

        See `wsikit.results.display.gallery`.

        Parameters
        ----------
        by
            Quantity whose highest (or `lowest`) values are shown, such as "probability:PD"; None: patches evenly
            spaced over the table.
        grid
            Name of the patch grid, where the store has several.
        """
        figure: Figure = _display().gallery(self, n, by, grid=grid, lowest=lowest)
        return figure

    def _repr_html_(self) -> str:
        return slide_html(self, self.findings())

    def close(self) -> None:
        """Release file handles. Closing twice is not an error."""
        if self._source is not None:
            self._source.close()
        else:
            self._stored.close()

    def read_box(self, level: int, box: tuple[int, int, int, int]) -> npt.NDArray[np.uint8]:
        """Pixels of a box (x, y, width, height) in px of `level`: uint8 (height, width, 3), white outside the level."""
        return self._levels.read_box(level, box)

    def read_channel_box(self, level: int, box: tuple[int, int, int, int], channels: Sequence[int]) -> Samples:
        if self._source is not None:
            return self._source.read_channel_box(level, box, channels)
        return self._stored.read_channel_box(level, box, channels)

    def _stated_channels(self) -> tuple[Channel, ...]:
        try:
            return tuple(Channel.from_json(channel) for channel in self.record.get("channels", ()))
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{self.folder / 'zarr.json'}: not the channels of a slide ({error!r}). Tile the slide again."
            ) from error

    def _read_associated(self, name: str) -> npt.NDArray[np.uint8]:
        with contextlib.closing(self._picture(name)) as levels:
            return levels.read_box(0, (0, 0, *levels.level_dimensions[0]))

    def _picture(self, name: str) -> StoreLevels:
        """The one level of an associated image."""
        return StoreLevels(self.folder / "associated" / name, 1, of_image=False)

    def _associated_names(self) -> tuple[str, ...]:
        return tuple(sorted(path.parent.name for path in (self.folder / "associated").glob("*/zarr.json")))

    def _icc_profile(self) -> bytes | None:
        try:
            return (self.folder / "wsikit" / "icc" / "c" / "0").read_bytes()
        except FileNotFoundError:
            return None

    def _check_holds_pixels(self) -> None:
        if not self.holds_pixels:
            raise StoreError(
                f"{self.folder}: holds no pixels (it was made with --pixels none). Give the slide, or tile it again "
                "with --pixels keep."
            )

    def _tissue_label(self) -> npt.NDArray[np.uint8]:
        return read_label(
            self.folder / "labels" / "tissue", self.folder, self.tissue_record(), self.record["mpp"] or self.info.mpp
        )

    def _vendor_properties(self) -> dict[str, str]:
        path = self.folder / "wsikit" / "zarr.json"
        if not path.is_file():
            return {}
        try:
            return {
                str(name): str(value)
                for name, value in json.loads(path.read_text("utf-8"))["attributes"]["vendor"].items()
            }
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise StoreError(
                f"{path}: not the properties of a slide ({error}). Copy the store again, or delete {self.folder} and "
                "tile the slide again."
            ) from error


def _display() -> Any:
    """The module `wsikit.results.display`.

    It lies above this package. It is the one exception to the order of imports, and is imported only when a figure is
    requested.
    """
    return importlib.import_module("wsikit.results.display")


StoreLike = SlideStore | str | os.PathLike[str]


def open_store(store: StoreLike) -> SlideStore:
    """The store itself, or the one at a path."""
    return store if isinstance(store, SlideStore) else SlideStore(store)
