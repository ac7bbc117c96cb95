"""Captions that are made by one process: by a generative captioner, or within a budget.

A generative captioner describes about one patch per second, alone on its device. So patches are decoded ahead, and
each batch is written to a journal at once: a chunk of a column has 512 rows, so a kill would cost minutes of work, and
smaller chunks would leave many small files in the store. The columns are written when all captions are complete;
until then older captions stay.

What is described is a patch, or with `Captioner.field` a field that holds a block of patches. Both have a number: the
patch its row, the field its place among the fields of the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.captions.base import Caption, Captioner, batch_of, images_per_call_of
from wsikit.captions.cache import CachedCaptioner, pixel_key
from wsikit.captions.fields import field_of, lost_in, with_position
from wsikit.captions.filter import SAFETY_REVISION, judge
from wsikit.inference.budget import CHOICE_REVISION, Budget, choose, read_features, similarity_features
from wsikit.inference.caption_columns import (
    NO_ROW,
    SHARE_FAILED,
    SOURCE_COLUMNS,
    UNREADABLE,
    CaptionWriter,
    read_captions,
)
from wsikit.inference.caption_fields import (
    MOST_LOST,
    UNREADABLE_FIELD,
    UNSEEN,
    fields_of,
    read_damaged,
    unseen_rows,
    why_not_described,
)
from wsikit.models.protocol import ImageFeatureExtractor
from wsikit.progress import SILENT, Progress
from wsikit.slides.store import SlideStore
from wsikit.store.journal import Journal
from wsikit.store.receipts import Receipt, digest_of
from wsikit.store.table import PatchTable, coords_digest
from wsikit.tiling.columns import ColumnStage, DeviceWork
from wsikit.tiling.stream import PatchBatch, iterate_patches

CAPTION_REVISION = 1
"""Increased when the same captioner output gives other columns."""


class GenerativeCaptions:
    """The captions of one table, made batch by batch; each batch is saved at once."""

    def __init__(
        self,
        store: SlideStore,
        table: PatchTable,
        captioner: Captioner,
        budget: Budget | None,
        model: ImageFeatureExtractor | None,
        retry_failed: bool = False,
    ) -> None:
        self.store, self.table = store, table
        self.captioner = captioner if isinstance(captioner, CachedCaptioner) else CachedCaptioner(captioner)
        field = field_of(self.captioner)
        self.fields = None if field is None else fields_of(store, table, field)
        self.budget = budget
        self.retry_failed = retry_failed
        self.similarity = similarity_features(model)
        self.writer = CaptionWriter.of(self.captioner, with_sources=True)
        self.progress: Progress = SILENT
        self.patches = coords_digest(table)
        self.journal = Journal(table, digest_of([self.captioner.fingerprint(), self.patches]))
        self.described: dict[int, dict[str, Any]] = {}
        """The captioner's output by row, or by field."""
        self.failed: dict[int, Caption] = {}
        """Failed requests by row, or by field."""
        self.unseen: set[int] = set()
        """Rows of patches whose place in a field that is described could not be read."""

    def stage(self) -> ColumnStage:
        """The stage that brings the caption columns up to date."""
        attempts = self._attempts()
        if attempts is None:
            receipt = self._receipt(0)
        elif self.retry_failed and self._restore_columns():
            receipt = self._receipt(attempts + 1)
        else:
            receipt = self._receipt(attempts)
        return ColumnStage("captions", self.writer.specs, receipt, DeviceWork(partial(self._run, receipt)))

    def _run(self, receipt: Receipt, store: SlideStore, table: PatchTable, progress: Progress) -> None:
        self.progress = progress
        self._restore_journal()
        source = self._source()
        self._describe(source)
        self._write(source, receipt)
        self.journal.clear_others()
        if self.budget is None:
            self.journal.clear()  # the columns hold everything; a larger budget continues from the journal

    def _receipt(self, attempt: int) -> Receipt:
        parameters: dict[str, Any] = {"captioner": self.captioner.fingerprint(), "safety": SAFETY_REVISION}
        if self.budget is not None:
            parameters["budget"] = self._choice()
        if attempt:
            parameters["attempt"] = attempt
        return Receipt("caption", CAPTION_REVISION, parameters, {"patches": self.patches})

    def _choice(self) -> dict[str, Any]:
        assert self.budget is not None
        numbers = {"captions": self.budget.captions, "similarity": self.budget.similarity}
        return {**numbers, "features": self.similarity.record, "revision": CHOICE_REVISION}

    def _attempts(self) -> int | None:
        """How often failed captions were requested again, if the columns are otherwise up to date; else None."""
        needed = ["caption", *SOURCE_COLUMNS, *(["caption_facts"] if self.captioner.fact_names else [])]
        if not set(needed) <= set(self.table.columns()):
            return None
        attempt = 0
        for name in needed:
            known = self.table.receipt(name)
            assert known is not None
            attempt = int(known.parameters.get("attempt", 0))
            if known.digest != self._receipt(attempt).digest:
                return None
        return attempt

    def _restore_columns(self) -> bool:
        """Restore captions from the columns, except those of failed requests; False if no request failed."""
        found = read_captions(self.table)
        assert found is not None
        named = self.captioner.fact_names if "caption_facts" in self.table.columns() else ()
        facts = self.table.read("caption_facts") if named else np.empty((len(found.rows), 0))
        missing = False
        for row, (text, failure, raw) in enumerate(zip(found.texts, found.failures, found.raw)):
            rejected = bool(failure and raw) and judge(str(raw)).failure == failure
            if found.rows[row] == row or rejected:
                measured = {name: value for name, value in zip(named, facts[row].tolist()) if value == value}
                number = row if self.fields is None else int(self.fields.of_patch[row])
                self.described[number] = {"row": number, "raw": str(raw or text), "facts": measured}
                if self.fields is not None:
                    self.described[number]["lost"] = lost_in(str(text))
            elif failure == UNSEEN:
                self.unseen.add(row)
            elif failure and not str(failure).startswith((UNREADABLE, UNREADABLE_FIELD, SHARE_FAILED)):
                missing = True
        return missing

    def _restore_journal(self) -> None:
        """Restore the captions of an interrupted run."""
        for record in self.journal.read():
            self.described[int(record["row"])] = record
            self.unseen.update(record.get("unseen", ()))
            self.captioner.add(record["key"], Caption(record["raw"], record["facts"], self.captioner.name))

    def _source(self) -> npt.NDArray[np.int64]:
        """The row, or field, whose caption each row gets, int64 (N,)."""
        if self.fields is not None:
            return self.fields.of_patch
        if self.budget is None:
            return np.arange(len(self.table))
        kept = Journal(self.table, digest_of([self._choice(), self.patches]))
        for record in kept.read():
            return np.asarray(record["source"], dtype=np.int64)
        features = read_features(self.store, self.table, self.similarity.features, self.progress)
        source = choose(features, self.table.coords, self.budget)
        kept.add([{"source": source.tolist()}])
        return source

    def _describe(self, source: npt.NDArray[np.int64]) -> None:
        """Request the missing captions; patches or fields are decoded ahead."""
        grid, coords = self.table.grid, self.table.coords
        if self.fields is not None:
            grid, coords = self.fields.grid, self.fields.corners
        batches = self._batches(source)
        wanted = np.concatenate([np.empty(0, dtype=np.int64), *batches])
        ends = np.cumsum([0, *map(len, batches)]).tolist()
        ranges = [slice(first, last) for first, last in pairwise(ends)]
        mpp = grid.target_mpp
        self.progress.start("captions", len(wanted), "patches" if self.fields is None else "fields")
        for part, batch in iterate_patches(self.store, grid, coords[wanted], ranges):
            rows = wanted[part]
            images, readable, notes = self._seen(rows, batch)
            self.failed.update(
                {int(row): Caption("", failure=UNREADABLE) for row in rows[~readable] if int(row) not in self.failed}
            )
            images = images[readable]
            found = self.captioner.caption(images, mpp=mpp) if len(images) else []
            self._keep(zip(rows[readable].tolist(), images, found, strict=True), mpp, notes)
            self.progress.advance(len(rows))
        self.progress.finish()

    def _seen(
        self, rows: npt.NDArray[np.int64], batch: PatchBatch
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_], dict[int, dict[str, Any]]]:
        """The images of a batch, which of them are described, and what is noted of fields with unreadable parts."""
        images, readable = batch.images, batch.readable
        notes: dict[int, dict[str, Any]] = {}
        if self.fields is None or readable.all():
            return images, readable, notes
        images, readable = images.copy(), readable.copy()
        for index in np.flatnonzero(~readable).tolist():
            number = int(rows[index])
            part = read_damaged(self.store, self.fields, number)
            if part.lost > MOST_LOST:
                self.failed[number] = Caption("", failure=why_not_described(self.fields, number, part.lost))
                continue
            images[index], readable[index] = part.image, True
            unseen = unseen_rows(self.table, self.fields, number, part)
            notes[number] = {"lost": round(part.lost, 4), "unseen": unseen}
        return images, readable, notes

    def _batches(self, source: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """Rows, or fields, without a caption, batch by batch.

        With several images per call, batches are formed before those with a caption are left out, so that after an
        interruption the same images are described together.
        """
        numbers = np.unique(source[source != NO_ROW])
        missing = np.array([number not in self.described for number in numbers.tolist()], dtype=bool)
        if images_per_call_of(self.captioner) == 1:
            numbers, missing = numbers[missing], missing[missing]
        size = batch_of(self.captioner)
        parts = [slice(first, first + size) for first in range(0, len(numbers), size)]
        return [numbers[part][missing[part]] for part in parts if missing[part].any()]

    def _keep(
        self,
        found: Iterable[tuple[int, npt.NDArray[np.uint8], Caption]],
        mpp: float,
        notes: Mapping[int, dict[str, Any]],
    ) -> None:
        records: list[dict[str, Any]] = []
        for row, image, caption in found:
            if caption.failure:
                self.failed[row] = caption
            else:
                facts = {name: float(value) for name, value in caption.facts.items()}
                record = {"row": row, "key": pixel_key(image, mpp), "raw": caption.text, "facts": facts}
                records.append({**record, **notes.get(row, {})})
                self.unseen.update(notes.get(row, {}).get("unseen", ()))
        self.journal.add(records)
        self.described.update({record["row"]: record for record in records})

    def _write(self, source: npt.NDArray[np.int64], receipt: Receipt) -> None:
        """Write the columns; only now are older captions replaced."""
        specs = self.writer.specs
        for rows in self.table.prepare(specs, receipt):
            columns = self._columns(rows, source)
            for spec in specs:
                self.table.write(spec.name, rows, columns[spec.name])

    def _columns(self, rows: slice, source: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        columns = self.writer.blank(rows.stop - rows.start)
        for index, row in enumerate(range(rows.start, rows.stop)):
            described = int(source[row])
            if described == NO_ROW:
                continue
            text, failure, raw = self._filtered(described)
            own = self.fields is not None or described == row
            if text and self.fields is not None:
                lost = self.described[described].get("lost", 0.0)
                text, raw = with_position(text, self.fields.positions[row], lost), raw or text
                if row in self.unseen:
                    text, failure, raw = "", UNSEEN, ""
            if failure and not own:
                failure, raw = f"{SHARE_FAILED}: {failure}", ""
            columns["caption"][index], columns["caption_failure"][index] = text, failure
            columns["caption_raw"][index] = raw
            columns["caption_source"][index] = NO_ROW if failure else row if own else described
            if self.fields is None and own and row in self.described:  # facts measured elsewhere are not copied
                self.writer.put_facts(columns, index, self.described[row]["facts"])
        return columns

    def _filtered(self, row: int) -> tuple[str, str, str]:
        """Caption, failure and raw text of a described row, after the output filter."""
        if row not in self.described:
            failed = self.failed[row]
            return "", failed.failure, failed.text
        raw = str(self.described[row]["raw"])
        result = judge(raw)
        return result.text, result.failure, raw if raw != result.text else ""
