"""Captions of fields: each patch takes the text of the field that holds it, and its own position."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from wsikit.captions import Caption, CaptionerOptions, load_captioner
from wsikit.captions.fields import Field, lost_in
from wsikit.cli.main import main
from wsikit.errors import ModelError, RequestError
from wsikit.geometry import PatchGrid
from wsikit.inference.budget import Budget
from wsikit.inference.caption import caption
from wsikit.inference.caption_columns import NO_ROW, read_captions, summarize_captions
from wsikit.inference.caption_fields import UNSEEN, fields_of
from wsikit.slides.store import SlideStore
from wsikit.tiling.patches import PatchParameters
from wsikit.tiling.tile import tile, tile_slide

FIELD = Field(120)  # 240 µm: 5 × 5 patches of 96 px at 0.5 µm/px


class FieldCaptioner:
    """States the mean colour of what it is given, and with several images per call the first image's as well."""

    name, fact_names = "fields", ()

    def __init__(
        self,
        field: Field | None = FIELD,
        *,
        stop_after: int | None = None,
        refuse: int | None = None,
        per_call: int = 1,
    ) -> None:
        self.field, self.stop_after, self.refuse, self.images_per_call = field, stop_after, refuse, per_call
        self.batch = 2 * per_call
        self.seen: list[npt.NDArray[np.uint8]] = []
        self.mpps: set[float] = set()
        self.lock = threading.Lock()

    def fingerprint(self) -> dict[str, Any]:
        field = None if self.field is None else self.field.to_json()
        return {"captioner": self.name, "field": field, "images": self.images_per_call}

    def caption(self, images: npt.NDArray[np.uint8], *, mpp: float) -> list[Caption]:
        if self.stop_after is not None and len(self.seen) + len(images) > self.stop_after:
            raise ModelError("the captioner fell over")
        self.mpps.add(mpp)
        found = []
        for first in range(0, len(images), self.images_per_call):
            for image in images[first : first + self.images_per_call]:
                self.seen.append(image.copy())
                if len(self.seen) == self.refuse:
                    found.append(Caption("", source=self.name, failure="no response"))
                else:
                    with_first = f" after {colour(images[first])}" if self.images_per_call > 1 else ""
                    found.append(Caption(f"Neuropil of {colour(image)}{with_first}.", source=self.name))
        return found


def colour(image: npt.NDArray[np.uint8]) -> str:
    return "-".join(f"{value:.3f}" for value in image.reshape(-1, 3).mean(axis=0))


@pytest.fixture
def store(slide_path: Path, tmp_path: Path) -> SlideStore:
    return tile(slide_path, tmp_path / "s.zarr", patch_px=96)


def test_each_patch_takes_the_text_of_its_field_and_its_position(
    store: SlideStore, pixels: npt.NDArray[np.uint8]
) -> None:
    captioner = FieldCaptioner()
    table = caption(store, captioner=captioner)
    found = read_captions(table)
    assert captioner.mpps == {2.0}
    assert all(image.shape == (120, 120, 3) for image in captioner.seen)
    # the fields by hand: 480 px of the slide, moved inwards at its right and lower edge
    corners = {
        (min(x // 480 * 480, 1500 - 480), min(y // 480 * 480, 1100 - 480)): None for x, y in table.coords.tolist()
    }
    assert len(captioner.seen) == len(corners) < len(table) / 4
    texts = {}
    for corner in corners:
        x, y = corner
        truth = pixels[y : y + 480, x : x + 480].reshape(120, 4, 120, 4, 3).mean(axis=(1, 3))
        differences = [np.abs(image - truth).mean() for image in captioner.seen]
        assert min(differences) < 2  # the slide is a JPEG; other fields differ by more than 30
        texts[corner] = f"Neuropil of {colour(captioner.seen[int(np.argmin(differences))])}."
    assert len(set(texts.values())) == len(texts)
    for row, (x, y) in enumerate(table.coords.tolist()):
        left, top = min(x // 480 * 480, 1500 - 480), min(y // 480 * 480, 1100 - 480)
        column = ("left", "centre", "right")[int((x + 48 - left) // 160)]
        line = ("upper", "", "lower")[int((y + 48 - top) // 160)]
        place = f"{line} {column}".strip()
        assert found.texts[row] == f"{texts[left, top]} (This patch: {place} of the field.)"
        assert found.raw[row] == texts[left, top]
    assert found.rows.tolist() == list(range(len(table)))
    assert summarize_captions(table).described == len(table)


@pytest.mark.parametrize(
    ("patch_px", "overlap_px", "field"), [(96, 0, Field(130)), (96, 32, FIELD), (64, 0, Field(50))]
)
def test_a_field_holds_all_of_its_patches(
    slide_path: Path, tmp_path: Path, patch_px: int, overlap_px: int, field: Field
) -> None:
    store = tile_slide(slide_path, tmp_path / "s.zarr", patches=PatchParameters(0.5, patch_px, overlap_px))
    table = store.patches()
    fields = fields_of(store, table, field)
    corners = fields.corners[fields.of_patch]
    assert (table.coords >= corners - 1).all()
    inside = np.minimum(table.coords + patch_px, store.dimensions)
    assert (inside <= corners + 4 * field.px + 1).all()
    assert len(fields.corners) == len(np.unique(fields.of_patch))


def test_a_field_larger_than_its_block_of_patches_is_centred_on_it(store: SlideStore) -> None:
    fields = fields_of(store, store.patches(), Field(130))  # 520 px of the slide, 5 patches of 96 px
    inner = fields.corners[(fields.corners > 0) & (fields.corners < np.array([1500, 1100]) - 520)]
    assert len(inner)
    assert (inner % 480 == 480 - 20).all()


def test_patches_that_lie_anywhere_have_fields_too(store: SlideStore) -> None:
    class Table:
        grid = PatchGrid((1500, 1100), (0.5, 0.5), 96, 0.5, anchored=False)
        coords = np.random.default_rng(0).integers(0, 1000, (200, 2))

    fields = fields_of(store, Table(), FIELD)  # type: ignore[arg-type]
    corners = fields.corners[fields.of_patch]
    assert (Table.coords >= corners - 1).all()
    assert (np.minimum(Table.coords + 96, store.dimensions) <= corners + 481).all()


@pytest.mark.parametrize("per_call", [1, 2])
def test_an_interrupted_run_continues_and_gives_the_same_texts(
    store: SlideStore, slide_path: Path, tmp_path: Path, per_call: int
) -> None:
    whole = read_captions(
        caption(tile(slide_path, tmp_path / "w.zarr", patch_px=96), captioner=FieldCaptioner(per_call=per_call))
    )
    broken = FieldCaptioner(stop_after=4, per_call=per_call)
    with pytest.raises(ModelError):
        caption(store, captioner=broken)
    assert "caption" not in store.patches().columns()
    again = FieldCaptioner(per_call=per_call)
    found = read_captions(caption(store, captioner=again))
    n_fields = len(fields_of(store, store.patches(), FIELD).corners)
    assert len(broken.seen) == 4
    assert len(again.seen) == n_fields - 4
    assert found.texts.tolist() == whole.texts.tolist()


def test_with_several_images_per_call_patches_are_described_together_as_without_the_interruption(
    store: SlideStore, slide_path: Path, tmp_path: Path
) -> None:
    whole = read_captions(
        caption(tile(slide_path, tmp_path / "w.zarr", patch_px=96), captioner=FieldCaptioner(None, per_call=3))
    )
    first = FieldCaptioner(None, per_call=3, stop_after=12, refuse=2)
    with pytest.raises(ModelError):
        caption(store, captioner=first)
    # the failed one is requested again; all others after it are described with the same images as before
    found = read_captions(caption(store, captioner=FieldCaptioner(None, per_call=3)))
    differ = np.flatnonzero(found.texts != whole.texts)
    assert differ.tolist() in ([], [1])


def test_the_field_is_part_of_the_receipt(store: SlideStore) -> None:
    caption(store, captioner=FieldCaptioner())
    same = FieldCaptioner()
    caption(store, captioner=same)
    assert not same.seen
    for other in (FieldCaptioner(Field(120, 1.0)), FieldCaptioner(Field(240, 1.0)), FieldCaptioner(None)):
        caption(store, captioner=other)
        assert other.seen


def test_a_failed_field_is_a_failure_of_its_patches_and_is_asked_again_on_demand(store: SlideStore) -> None:
    fields = fields_of(store, store.patches(), FIELD)
    table = caption(store, captioner=FieldCaptioner(refuse=3))
    found = read_captions(table)
    failed = fields.of_patch == 2
    assert (found.failures[failed] == "no response").all()
    assert not any(found.failures[~failed])
    assert (found.rows[failed] == NO_ROW).all()
    assert not any(found.texts[failed])
    again = FieldCaptioner()
    retried = read_captions(caption(store, captioner=again, retry_failed=True))
    assert len(again.seen) == 1
    assert all(retried.texts)
    assert (retried.texts[~failed] == found.texts[~failed]).all()


def test_a_field_is_described_if_most_of_it_could_be_read(
    slide_path: Path, tmp_path: Path, pixels: npt.NDArray[np.uint8], damage_tile: Any
) -> None:
    damage_tile(slide_path, 2, 2, page=1)
    # fields are read from the level of 1 µm/px, where the store has tiles of 512 level-0 px
    store = tile(slide_path, tmp_path / "s.zarr", patch_px=96)
    captioner = FieldCaptioner(refuse=1)
    table = caption(store, captioner=captioner)
    found, fields = read_captions(table), fields_of(store, table, FIELD)

    def lost_of(corners: npt.NDArray[np.int64], side: int, margin: int = 0) -> npt.NDArray[np.float64]:
        """By hand: the share of squares inside the tile."""
        overlap = np.clip(np.minimum(corners + side, 1024 + margin) - np.maximum(corners, 512 - margin), 0, side)
        return overlap.prod(axis=1) / side**2

    lost = lost_of(fields.corners, 480)
    assert sorted({round(share, 3) for share in lost.tolist()}) == [0, 0.124, 0.786, 0.871]
    unseen = lost_of(table.coords, 96) > 0.5
    perhaps = lost_of(table.coords, 96, margin=28) > 0.5  # the parts that are read have 28 px
    for row, number in enumerate(fields.of_patch.tolist()):
        text, failure, share = str(found.texts[row]), str(found.failures[row]), lost[number]
        if number == 0:
            assert failure == "no response"
        elif share > 0.5:
            x, y = fields.corners[number]
            assert re.match(rf"its field could not be read: \d+ % of the field of 120 px .* x={x}, y={y} ", failure)
        elif unseen[row] or (failure and perhaps[row]):
            assert (failure, text, found.rows[row]) == (UNSEEN, "", NO_ROW)
        else:
            assert share - 0.01 <= lost_in(text) <= share + 0.08
            assert text.endswith("of the field.)") is bool(share == 0)
    assert (unseen & (lost[fields.of_patch] < 0.5)).any()
    (image,) = [image for image in captioner.seen if (image == 128).all(axis=2).any()]
    truth = pixels[480:960, 960:1440].reshape(120, 4, 120, 4, 3).mean(axis=(1, 3))
    assert (image[8:, :16] == 128).all()  # of y from 512, of x up to 1024
    assert np.abs(image[:, 24:] - truth[:, 24:]).mean() < 2
    again = FieldCaptioner()
    retried = read_captions(caption(store, captioner=again, retry_failed=True))
    assert len(again.seen) == 1  # asking again would not make the others readable
    others = fields.of_patch != 0
    assert (retried.texts[others] == found.texts[others]).all()
    assert (retried.failures[others] == found.failures[others]).all()


def test_a_field_whose_own_level_is_intact_is_described_with_the_pixels_of_that_level(
    slide_path: Path, tmp_path: Path, damage_tile: Any
) -> None:
    whole = read_captions(caption(tile(slide_path, tmp_path / "w.zarr", patch_px=96), captioner=FieldCaptioner()))
    damage_tile(slide_path, 5, 4)  # of the level of 0.5 µm/px
    store = tile(slide_path, tmp_path / "s.zarr", patch_px=96)
    table = caption(store, captioner=FieldCaptioner())
    assert (table.read("readable") == 0).any()
    by_place = dict(zip(map(tuple, store.patches().coords.tolist()), read_captions(table).texts, strict=True))
    expected = SlideStore(tmp_path / "w.zarr").patches().coords.tolist()
    assert all(by_place[tuple(place)] == text for place, text in zip(expected, whole.texts, strict=True))


def test_impossible_requests_are_refused_before_anything_is_asked(store: SlideStore) -> None:
    for captioner, budget, reason in (
        (FieldCaptioner(), Budget(3), "exclude each other"),
        (FieldCaptioner(), Budget(10_000), "exclude each other"),
        (FieldCaptioner(Field(896, 0.25)), None, "0.5 µm/px, too coarse for fields at 0.25 µm/px"),
        (FieldCaptioner(Field(20)), None, "a caption field of 40 µm does not hold a patch of 48 µm"),
    ):
        with pytest.raises(RequestError, match=reason):
            caption(store, captioner=captioner, budget=budget)
        assert not captioner.seen
    for options in ({"caption_field": 896}, {"images_per_call": 4}, {"caption_mpp": 2.0}):
        for name in ("morphometry", "morphometry-in-slide"):
            with pytest.raises(RequestError, match=f"measures and takes no options: {next(iter(options))}"):
                load_captioner(name, CaptionerOptions(**options))
    with pytest.raises(RequestError, match="add --caption-field"):
        load_captioner("http://127.0.0.1:9/v1#m", CaptionerOptions(caption_mpp=2.0))


@pytest.mark.parametrize("verb", ["caption", "run"])
@pytest.mark.parametrize(
    "options",
    [
        ["--captioner", "http://127.0.0.1:9/v1#m", "--caption-field", "120", "--caption-budget", "3"],
        ["--captioner", "morphometry", "--caption-field", "120"],
        ["--captioner", "morphometry", "--images-per-call", "2"],
        ["--captioner", "http://127.0.0.1:9/v1#m", "--caption-mpp", "2"],
    ],
)
def test_the_command_line_refuses_them_in_one_line(
    store: SlideStore,
    slide_path: Path,
    tmp_path: Path,
    verb: str,
    options: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [verb, str(store.folder)] if verb == "caption" else [verb, str(slide_path), "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *options])
    assert ended.value.code == 2
    assert capsys.readouterr().err.strip().count("\n") == 0
