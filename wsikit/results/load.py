"""One slide's results as its store holds them: what every exporter, the report and the viewer work from.

Each part is read from the store when it is first used, and then kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from wsikit.errors import ReadError
from wsikit.exporters.classmap import ClassMap
from wsikit.exporters.palette import hex_color, parse_color
from wsikit.exporters.quantity import read_quantity
from wsikit.inference.localize import concept_columns
from wsikit.inference.vote import own_parameters, stored_vote, table_prior
from wsikit.results.slide_value import SlideValue, expected_grade, stored_value
from wsikit.slides.store import SlideStore
from wsikit.store.table import PatchTable
from wsikit.tissue.overview import read_overview
from wsikit.voting.inputs import vote_inputs
from wsikit.voting.prior import PriorShift
from wsikit.voting.result import SlideResult
from wsikit.voting.result_html import result_html

if TYPE_CHECKING:
    import pandas as pd

THUMBNAIL_PX = 1600


@dataclass(frozen=True, eq=False)
class StoredResults:
    """The results of one slide on one patch grid.

    Exporters get this object (see `wsikit.results.formats`). It reads only; nothing is computed that the store does not
    hold, except votes of older versions of wsikit, which are computed again in memory.

    >>> import tempfile, wsikit
    >>> folder = tempfile.TemporaryDirectory()
    >>> _ = wsikit.make_phantom(f"{folder.name}/p.tif", size_px=(512, 512), seed=1)
    >>> results = StoredResults(wsikit.tile(f"{folder.name}/p.tif", f"{folder.name}/p.zarr"))
    >>> results.slide_id, results.result, results.reason
    ('p', None, 'no model was run')
    """

    store: SlideStore
    """The open store: pixels (`read_region`, `thumbnail`), µm per pixel (`mpp`), size (`dimensions`, level-0 px)."""
    grid: str | None = None
    """Name of the patch grid; None where the store has only one."""
    method: str | None = None
    """Which vote is shown; None: that of the model, see `shown_method`."""
    not_predicted: str | None = None
    """Why no model was run on this slide; predictions of an earlier run are then ignored. None: show what is there."""

    @property
    def slide_id(self) -> str:
        """The slide's identifier."""
        return self.store.slide_id

    @cached_property
    def table(self) -> PatchTable:
        """The patch table: one row per patch, `coords` int64 (N, 2) in level-0 px, and every column that was written.

        StoreError if the store has no patch table, or several and `grid` is None.
        """
        return self.store.patches(self.grid)

    @cached_property
    def model(self) -> dict[str, Any]:
        """What was recorded about the model: name, version, fingerprint, class_names, colors, background, notice.

        Empty without predictions.
        """
        return dict(self._probability["model"]) if self._predicted else {}

    @cached_property
    def class_map(self) -> ClassMap:
        """Coordinates, class labels (N,) and probabilities (N, C) of the patches, with the names and colours of the
        classes. Probabilities are corrected to the same class frequencies as for the vote (`prior_shift`). Without
        predictions all labels are -1 and `probs` is None.
        """
        coords = self.table.coords
        common: dict[str, Any] = {
            "slide_id": self.slide_id,
            "grid": self.table.grid,
            "mpp_source": self.store.mpp_source,
            "coords": coords,
            "regions_only": self._regions_only(),
        }
        if not self._predicted:
            unpredicted = np.full(len(coords), -1, dtype=np.int64)
            return ClassMap(**common, labels=unpredicted, probs=None, classes=(), class_names=(), colors=())
        model, classes = self.model, tuple(self._probability["names"])
        background = tuple(model["background"])
        probs = self.table.read("probability")
        if (shift := self.prior_shift) is not None:
            probs = shift.apply(probs).astype(np.float32)
        return ClassMap(
            **common,
            labels=vote_inputs(probs, classes, background).labels,
            probs=probs,
            classes=classes,
            class_names=tuple(model["class_names"]),
            colors=tuple(parse_color(color) for color in model["colors"]),
            background=background,
            notice=model["notice"],
        )

    def _regions_only(self) -> bool:
        """Whether the table was made in regions of interest; regions that were imported later remove no patch."""
        return "roi" in self.table.columns() and bool((self.table.read("roi") > 0).all())

    @cached_property
    def shown_method(self) -> str:
        """`method`, or that of the vote which the model is made for: "mean" unless it states another."""
        return self.method or own_parameters(self.table).method

    @cached_property
    def result(self) -> SlideResult | None:
        """The slide-level vote by `shown_method`; None if there is none, for the `reason`."""
        if not self._predicted or self.shown_method not in self.table.votes():
            return None
        result = stored_vote(self.table, self.shown_method)
        return result if result.classes else replace(result, classes=self.classes)

    @cached_property
    def prior_shift(self) -> PriorShift | None:
        """How patch probabilities are corrected to other class frequencies: as for the vote; without a vote, as by
        default. None: they are the model's own.
        """
        if not self._predicted:
            return None
        return table_prior(self.table) if self.result is None else self.result.prior

    @property
    def reason(self) -> str:
        """Why there is no vote; empty if there is one."""
        if not self._predicted:
            return self.not_predicted or "no model was run"
        return "" if self.result is not None else f"no vote by {self.shown_method} yet"

    @property
    def classes(self) -> tuple[str, ...]:
        """Codes of the classes that vote; the indices in `result` count these."""
        if not self._predicted:
            return ()
        background = self.model["background"]
        return tuple(code for code in self._probability["names"] if code not in background)

    @property
    def subtype(self) -> str | None:
        """Code of the called class; None if the vote abstained or there is none."""
        return None if self.result is None or self.result.label is None else self.classes[self.result.label]

    @property
    def probability(self) -> dict[str, float]:
        """The slide's score per class code; empty without a vote, and where no patch voted."""
        if self.result is None:
            return {}
        pairs = zip(self.classes, self.result.probs.tolist(), strict=True)
        return {code: value for code, value in pairs if math.isfinite(value)}

    @cached_property
    def value(self) -> SlideValue | None:
        """The number that a model on labels of slides gives: a value, a risk, or an expected grade with its unit.

        None for other models, and where no patch was predicted.
        """
        if not self._predicted:
            return None
        stored = stored_value(self.table)
        if stored is not None or self.result is None:
            return stored
        return expected_grade(self.model, self.classes, self.result.probs.tolist())

    @cached_property
    def unreadable_fraction(self) -> float:
        """Share of the patches that could not be read, 0 to 1; of the tissue mask where there are no patches."""
        readable = self.table.read("readable") if len(self.table) else np.empty(0)
        if len(readable):
            return float(1 - readable.mean())
        return float(self.store.tissue_record()["unreadable_fraction"])

    @cached_property
    def thumbnail(self) -> npt.NDArray[np.uint8]:
        """The whole slide, `THUMBNAIL_PX` or less along its longer side, uint8 (h, w, 3); unreadable parts hatched."""
        store = self.store
        try:
            return store.thumbnail(THUMBNAIL_PX)
        except ReadError:
            mpp = max(size * scale for size, scale in zip(store.dimensions, store.mpp, strict=True)) / THUMBNAIL_PX
            picture, unreadable = read_overview(store, max(mpp, *store.mpp))
            rows, cols = np.nonzero(unreadable)
            picture[rows, cols] = np.where((rows + cols) % 12 < 4, 90, 170)[:, None]
            return picture

    @cached_property
    def attention(self) -> npt.NDArray[np.floating] | None:
        """(N,) attention of a model on slide labels, × the mean of the slide; NaN without prediction. None: it has
        none."""
        if not self._predicted or "attention" not in self.table.columns():
            return None
        return read_quantity(self.table, "attention").values

    def measurements(self) -> dict[str, npt.NDArray[np.floating]]:
        """(N,) per patch by name: "probability <code>" of each class; gate, ood_score, roi, attention (× the slide's
        mean) and "localize <concept>" where they exist.
        """
        columns = self.table.columns()
        found: dict[str, npt.NDArray[np.floating]] = {}
        if self.class_map.probs is not None:
            for index, code in enumerate(self.class_map.classes):
                found[f"probability {code}"] = self.class_map.probs[:, index]
        for name in ("gate", "ood_score", "roi"):
            if name in columns:
                found[name] = self.table.read(name)
        if self.attention is not None:
            found["attention"] = self.attention
        for name in concept_columns(self.table):
            found[name.replace("_", " ", 1)] = self.table.read(name)
        return found

    def frame(self) -> pd.DataFrame:
        """The patch table as a data frame: x, y in level-0 px and all complete columns."""
        return self.table.frame()

    def __repr__(self) -> str:
        text = f"no vote: {self.reason}" if self.result is None else self.result.summary()
        return f"<StoredResults {self.slide_id}, {len(self.table):,} patches of {self.table.name}: {text}>"

    def _repr_html_(self) -> str:
        """Slide, patches and vote as a table, for notebooks."""
        head = f"<b>{escape(self.slide_id)}</b> · {len(self.table):,} patches of {escape(self.table.name)}"
        if self.result is None:
            return f"<div>{head}<p>No vote: {escape(self.reason)}</p></div>"
        voting = self.class_map.voting
        names = [self.class_map.class_names[index] for index in voting]
        colors = [hex_color(self.class_map.colors[index]) for index in voting]
        return f"<div>{head}{result_html(self.result, names, colors)}</div>"

    @cached_property
    def _predicted(self) -> bool:
        return self.not_predicted is None and "probability" in self.table.columns()

    @cached_property
    def _probability(self) -> dict[str, Any]:
        """Attributes of the column probability."""
        return self.table.attributes("probability")
