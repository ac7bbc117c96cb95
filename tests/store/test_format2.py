"""A store of format 2, written by the version before: it opens under today's names, and every stage works on it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import wsikit
from wsikit.captions import morphometry
from wsikit.inference.vote import stored_vote
from wsikit.slides.store import SlideStore
from wsikit.store.format2_names import COLUMNS, FACTS, VOTE_KEYS, Names
from wsikit.store.journal import Journal
from wsikit.store.receipts import Receipt
from wsikit.store.table import STORE_FORMAT, PatchTable
from wsikit.tiling.verify import verify
from wsikit.voting.parameters import VoteParameters

ZIP = Path(__file__).parents[1] / "data" / "store_format2.zip"
GRID, IN_SLIDE, SHARED = "0.5um_224px", "1um_112px", "1um_224px"


@pytest.fixture
def store(tmp_path: Path) -> SlideStore:
    with zipfile.ZipFile(ZIP) as packed:
        packed.extractall(tmp_path)
    return SlideStore(tmp_path / "format2.zarr")


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def times(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()
    }


def stored_digest(folder: Path) -> str:
    return str(json.loads((folder / "zarr.json").read_text())["attributes"]["wsikit"]["digest"])


def test_the_store_is_of_the_format_before(store: SlideStore) -> None:
    assert (store.record["format"], STORE_FORMAT) == (2, 3)
    on_disk = {path.name for path in (store.folder / "patches" / GRID).iterdir()}
    assert "novelty" in on_disk
    assert "ood_score" not in on_disk
    assert (store.folder / "patches" / SHARED / "caption_row").is_dir()


def test_its_tables_have_the_present_names(store: SlideStore) -> None:
    table = store.patches(GRID)
    assert "ood_score" in table.columns()
    assert not set(COLUMNS) & set(table.stored_columns())
    assert np.isfinite(table.read("ood_score")).any()
    names = table.attributes("caption_facts")["names"]
    assert set(FACTS.values()) <= set(names)
    assert not set(FACTS) & set(names)
    assert "caption_facts:od_p50" in table.frame()
    shared = store.patches(SHARED)
    assert shared.read("caption_source").dtype == np.int64
    vote = table.votes()["mean"]
    assert set(VOTE_KEYS.values()) <= {*vote, *vote["areas"]}
    assert not set(VOTE_KEYS) & {*vote, *vote["areas"]}
    receipt = table.vote_receipt("mean")
    assert receipt is not None
    assert "max_ood" in receipt.parameters
    assert "ood_score" in receipt.inputs


def test_a_table_opened_by_its_folder_has_the_present_names_too(store: SlideStore) -> None:
    assert "ood_score" in PatchTable(store.folder / "patches" / GRID).columns()


def test_what_is_up_to_date_is_kept_to_the_byte(store: SlideStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(morphometry, "_VERSION", 2)  # that of the store
    before, written = files(store.folder), times(store.folder)
    wsikit.caption(store, grid=GRID)
    wsikit.predict(store, grid=GRID)
    assert wsikit.vote(store, grid=GRID).ood_fraction is not None
    wsikit.caption(store, grid=IN_SLIDE, captioner="morphometry-in-slide")
    assert times(store.folder) == written, "nothing is written again"
    assert files(store.folder) == before


def test_a_vote_with_other_parameters_is_stored_under_the_old_names(store: SlideStore) -> None:
    table = store.patches(GRID)
    result = wsikit.vote(store, grid=GRID, parameters=VoteParameters(max_ood=0.9, min_margin=0.2))
    again = stored_vote(table, "mean")
    assert (again.n_background, again.ood_fraction) == (result.n_background, result.ood_fraction)
    kept = json.loads((table.folder / "votes" / "mean" / "zarr.json").read_text())["attributes"]
    assert kept["wsikit"]["parameters"]["max_novel"] == 0.9
    assert "max_ood" not in kept["wsikit"]["parameters"]
    assert kept["wsikit"]["inputs"]["novelty"] == stored_digest(table.folder / "novelty")
    assert "n_weightless" in kept["result"]
    assert "n_background" not in kept["result"]
    before = files(store.folder)
    wsikit.vote(store, grid=GRID, parameters=VoteParameters(max_ood=0.9, min_margin=0.2))
    assert files(store.folder) == before


def test_predicting_again_replaces_the_old_columns(store: SlideStore) -> None:
    table = store.patches(GRID)
    before = table.read("ood_score"), table.read("probability")
    for name in ("ood_score", "probability"):
        table.drop(name)
    assert not (table.folder / "novelty").exists()
    wsikit.predict(store, grid=GRID)
    assert (table.folder / "novelty").is_dir()
    assert not (table.folder / "ood_score").exists()
    np.testing.assert_allclose(table.read("ood_score"), before[0], rtol=1e-4)
    np.testing.assert_allclose(table.read("probability"), before[1], rtol=1e-4, atol=1e-6)


def test_captions_read_by_a_changed_receipt_keep_their_predictions(store: SlideStore) -> None:
    """The receipt of in-slide captions lists facts, so its digest differs under the present names."""
    table = store.patches(IN_SLIDE)
    caption = table.receipt("caption")
    assert caption is not None
    assert "slide" in caption.parameters
    assert "od_p50" in caption.parameters["slide"]
    assert not set(FACTS) & set(caption.parameters["slide"])
    assert caption.digest != stored_digest(table.folder / "caption")
    read_it = Receipt("test", 1, {}, {"caption": caption.digest})
    names = Names(2)
    stored = names.stored_receipt(read_it, table._stored_receipt)
    assert stored.inputs["caption"] == stored_digest(table.folder / "caption")
    assert names.receipt(stored, table._stored_receipt) == read_it


def test_it_is_exported_and_verified(store: SlideStore, tmp_path: Path) -> None:
    for to, name in (("png", "map.png"), ("geojson", "map.geojson"), ("csv", "table.csv"), ("report", "report.html")):
        assert wsikit.export(store, to, tmp_path / name, grid=GRID).stat().st_size > 1000
    wsikit.export(store, "png", tmp_path / "ood.png", grid=GRID, column="ood_score")
    table = pd.read_csv(tmp_path / "table.csv")
    assert "ood_score" in table
    assert "caption_facts:red_green_od_ratio" in table
    assert "novelty" not in table
    shared = tmp_path / "shared.csv"
    wsikit.export(store, "csv", shared, grid=SHARED)
    assert "caption_source" in pd.read_csv(shared)
    assert verify(store.folder).ok


def test_the_journal_of_a_slow_captioner_is_read_under_the_present_names(store: SlideStore) -> None:
    journal = Journal(store.patches(GRID), "0" * 64)
    journal.add([{"row": 0, "facts": {"od_p50": 0.5}}, {"source": [1, 2]}])
    (written,) = (path for path in journal.folder.glob("*/zarr.json"))
    assert '"body"' in written.read_text()
    assert "od_p50" not in written.read_text()
    assert journal.read() == [{"row": 0, "facts": {"od_p50": 0.5}}, {"source": [1, 2]}]


def test_a_new_store_has_the_present_names_on_disk(tmp_path: Path) -> None:
    names = Names(STORE_FORMAT)
    assert [names.stored_column(name) for name in COLUMNS.values()] == list(COLUMNS.values())
    assert names.stored_vote({"n_background": 1}) == {"n_background": 1}
