"""The viewer's server: the store's own bytes, this computer only, reading only, nothing outside of the store."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import socket
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wsikit.errors import RequestError, StoreError
from wsikit.slides.store import SlideStore
from wsikit.view.library import Choice, Library
from wsikit.view.server import Viewer
from wsikit.view.tiles import TileSet

SECRET = "the secret of another user"


def get(viewer: Viewer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """One request for a path below the viewer's own, with its cookie, as its pages send it."""
    cookie = viewer.access.cookie.partition(";")[0]
    return raw(viewer, viewer.access.home.rstrip("/") + path, method, **{"Cookie": cookie, **headers})


def raw(viewer: Viewer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """One request, its path sent as it is, `_` in names of headers as a hyphen."""
    connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=20)
    connection.putrequest(method, path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name.replace("_", "-"), value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    connection.close()
    return found


def decoded(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def test_tiles_are_the_stores_own_bytes(run_viewer: Viewer, made: Path) -> None:
    store = SlideStore(made / "slides" / "disc.zarr")
    levels = TileSet(store).levels
    assert [level.downsample for level in levels] == [2, 1]
    sent = 0
    for number, own in ((0, 1), (1, 0)):
        cols, rows = store.level_format(own).n_tiles
        for row in range(rows):
            for col in range(cols):
                status, body, headers = get(run_viewer, f"/slide/disc/tile/{number}/{col}_{row}.jpg")
                assert (status, headers["content-type"], headers["x-wsikit-tile"]) == (200, "image/jpeg", "own")
                assert body == store.chunk(own, col, row)
                sent += 1
    assert sent == 12 * 9 + 6 * 5
    store.close()


def test_tiles_that_a_browser_cannot_read_are_encoded_again(
    slide_path: Path, pixels: np.ndarray, tmp_path: Path
) -> None:
    import wsikit
    from wsikit.tiling.plan import ImageParameters

    store = wsikit.tile(slide_path, tmp_path / "a.zarr", image=ImageParameters(codec="zstd", regions="all"))
    tile = TileSet(store).tile(1, 2, 2)
    assert tile is not None
    assert not tile.own
    assert np.abs(decoded(tile.jpeg).astype(int) - pixels[512:768, 512:768]).mean() < 2


def test_levels_in_between_are_made_where_a_store_has_none(pixels: np.ndarray, tmp_path: Path) -> None:
    import wsikit

    big = np.tile(pixels, (2, 2, 1))
    Image.fromarray(big).save(tmp_path / "big.png")
    store = wsikit.tile(wsikit.open_slide(tmp_path / "big.png", mpp=0.5), tmp_path / "big.zarr")
    tiles = TileSet(store)
    assert [level.downsample for level in tiles.levels][-1] == 1
    coarse = tiles.tile(0, 1, 0)
    assert coarse is not None
    expected = big[:512, 512:1024].reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    assert tiles.levels[0].downsample == 2
    assert np.abs(decoded(coarse.jpeg) - expected).mean() < 4


def test_there_is_nothing_outside_of_a_level(run_viewer: Viewer) -> None:
    for place in ("0/6_0", "0/0_5", "2/0_0", "9/0_0", "0/-1_0", "0/0_0.png", "0/0_0.jpg/", "1/999999999_0"):
        assert get(run_viewer, f"/slide/disc/tile/{place}.jpg")[0] == 404
    assert get(run_viewer, "/slide/disc/patch/999999.jpg")[0] == 404


def test_a_tile_that_the_source_could_not_give_is_hatched(store_path: Path) -> None:
    level = store_path / "0" / "zarr.json"
    record = json.loads(level.read_text())
    record["attributes"]["wsikit"]["unreadable_tiles"] = [[5, 4]]
    level.write_text(json.dumps(record))
    tile = TileSet(SlideStore(store_path)).tile(1, 5, 4)
    assert tile is not None
    assert not tile.own
    assert 75 < decoded(tile.jpeg).min() < 110 < 150 < decoded(tile.jpeg).max() < 190


def test_page_patch_and_thumbnail_are_served(run_viewer: Viewer, made: Path) -> None:
    status, page, headers = get(run_viewer, "/slide/disc/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    assert b"Patch vote: Poorly differentiated (PD)" in page
    assert b'"kind":"served"' in page
    assert b'href="../../">All slides' in page
    assert decoded(get(run_viewer, "/slide/disc/patch/3.jpg")[1]).shape == (112, 112, 3)
    assert get(run_viewer, "/slide/disc/thumbnail.jpg")[1] == (made / "results" / "disc" / "thumbnail.jpg").read_bytes()
    index = get(run_viewer, "/")[1]
    assert b'href="slide/disc/"' in index
    assert b"case10" in index
    assert b'href="slide/case10/"' not in index


def test_one_store_is_shown_at_once(made: Path) -> None:
    with Viewer(Library(made / "slides" / "disc.zarr")) as viewer:
        status, _, headers = get(viewer, "/")
        assert (status, headers["location"]) == (302, "slide/disc/")
        assert get(viewer, "/slide/disc/")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/slide/disc/../../../secret.txt",
        "/slide/disc/%2e%2e/%2e%2e/%2e%2e/secret.txt",
        "/slide/..%2f..%2fsecret.txt/",
        "/slide/%2e%2e/",
        "/slide/..%5c..%5csecret.txt/",
        "/slide/disc/zarr.json",
        "/slide/disc/patches/0.5um_112px/zarr.json",
        "/slide/disc/tile/../../../../secret.txt",
        "/slide/disc/tile/0/0_0.jpg%00.txt",
        "/results/disc/row.json",
        "/slides.csv",
        "//etc/passwd",
        "/etc/passwd",
        "/secret.txt",
        "/slide/%00/",
        "http://127.0.0.1/etc/passwd",
    ],
)
def test_no_address_leads_to_a_file(run_viewer: Viewer, made: Path, path: str) -> None:
    (made.parent / "secret.txt").write_text(SECRET)
    (made / "secret.txt").write_text(SECRET)
    for ask in (get, raw):
        status, body, _ = ask(run_viewer, path, Cookie=run_viewer.access.cookie)
        assert status in (403, 404)
        assert SECRET.encode() not in body


def test_a_store_with_a_link_out_of_it_is_not_shown(store_path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    (store_path / "0" / "c" / "0" / "9").mkdir()
    (store_path / "0" / "c" / "0" / "9" / "9").symlink_to(secret)
    with pytest.raises(StoreError, match="link that leads out of the store"):
        Library(store_path)


def test_a_store_that_a_link_brings_into_a_run_is_not_shown(made: Path, store_path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "results").mkdir(parents=True)
    shutil.copytree(made / "slides", out / "slides")
    elsewhere = store_path.rename(tmp_path / "elsewhere.zarr")
    (out / "slides" / "linked.zarr").symlink_to(elsewhere, target_is_directory=True)
    library = Library(out)
    assert library.names() == ["disc"]
    assert library.shown("linked") is None


def test_a_link_put_into_a_run_later_is_found_when_the_slide_is_asked_for(made: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(made, tmp_path / "out"))
    with Viewer(Library(out)) as viewer:
        (tmp_path / "secret").write_text(SECRET)
        (out / "slides" / "disc.zarr" / "extra").symlink_to(tmp_path / "secret")
        status, body, _ = get(viewer, "/slide/disc/")
    assert status == 500
    assert b"leads out of the store" in body
    assert SECRET.encode() not in body


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:1", "localhost.evil.example", ""])
def test_another_name_that_leads_here_is_refused(run_viewer: Viewer, host: str) -> None:
    assert get(run_viewer, "/", Host=host)[0] == 403


def test_its_own_names_are_answered(run_viewer: Viewer) -> None:
    for host in (f"127.0.0.1:{run_viewer.port}", f"LOCALHOST:{run_viewer.port}"):
        assert get(run_viewer, "/", Host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_it_only_reads(run_viewer: Viewer, method: str) -> None:
    status, _, headers = get(run_viewer, "/slide/disc/", method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_viewing_changes_nothing(made: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(made, tmp_path / "out"))
    stamps = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in out.rglob("*")}
    for path in [out, *out.rglob("*")]:
        path.chmod(path.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    try:
        with Viewer(Library(out)) as viewer:
            for address in ("/", "/slide/disc/", "/slide/disc/tile/0/0_0.jpg", "/slide/disc/patch/0.jpg"):
                assert get(viewer, address)[0] == 200
    finally:
        for path in [out, *out.rglob("*")]:
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    assert stamps == {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in out.rglob("*")}


def test_only_this_computer_can_connect(run_viewer: Viewer) -> None:
    assert run_viewer.url.startswith("http://127.0.0.1:")
    others = {found[4][0] for found in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    for address in others - {"127.0.0.1", "127.0.1.1"}:
        with pytest.raises(OSError, match="refused|unreachable|timed out"):
            socket.create_connection((address, run_viewer.port), timeout=2)


def test_every_answer_forbids_use_by_other_pages(run_viewer: Viewer) -> None:
    for path in ("/", "/slide/disc/tile/0/0_0.jpg", "/nothing"):
        headers = get(run_viewer, path)[2]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"


def test_head_gives_the_length_without_the_body(run_viewer: Viewer) -> None:
    path = "/slide/disc/tile/0/0_0.jpg"
    assert get(run_viewer, path, "HEAD")[1] == b""
    assert int(get(run_viewer, path, "HEAD")[2]["content-length"]) == len(get(run_viewer, path)[1])


def test_what_is_neither_store_nor_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        Library(tmp_path)
    (tmp_path / "slides").mkdir()
    with pytest.raises(RequestError, match="no slide store below"):
        Library(tmp_path)


def test_a_missing_vote_is_stated_on_the_page(made: Path) -> None:
    shown = Library(made / "slides" / "disc.zarr", Choice(method="hard")).shown("disc")
    assert shown is not None
    assert "No vote by hard yet" in shown.page()


def test_a_port_in_use_is_reported(run_viewer: Viewer, made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from wsikit.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main(["view", os.fspath(made), "--port", str(run_viewer.port)])
    assert ended.value.code == 2
    assert f"port {run_viewer.port}" in capsys.readouterr().err
