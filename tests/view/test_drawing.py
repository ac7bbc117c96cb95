"""Regions drawn in the viewer: what is saved, what is refused, and what `run --roi` and training read of it."""

from __future__ import annotations

import http.client
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.view.test_browser import errors
from tests.view.test_server import get, raw
from wsikit.results.load import StoredResults
from wsikit.slides.store import SlideStore
from wsikit.tiling.roi import read_regions, read_roi
from wsikit.training.datasets.stores import read_stores
from wsikit.view.drawing import MAX_BYTES, MAX_CORNERS, MAX_REGIONS, DrawnRegions
from wsikit.view.library import Library
from wsikit.view.server import Viewer

TRIANGLE = [[400.0, 400.0], [700.25, 420.5], [500.0, 800.0]]
PAGE = "slide/disc/"


def region(corners: Any = TRIANGLE, label: Any = "Tumour", **more: Any) -> dict[str, Any]:
    return {"id": "x", "label": label, "color": "#cc79a7", "corners": corners, **more}


def body(*regions: Any, revision: str = "") -> bytes:
    return json.dumps({"revision": revision, "regions": list(regions)}).encode()


def post(viewer: Viewer, content: bytes, path: str = PAGE + "drawing", **headers: str) -> tuple[int, dict[str, Any]]:
    """As a page of the viewer sends it; a header that is "" is left out."""
    own = {
        "Cookie": viewer.access.cookie.partition(";")[0],
        "Origin": viewer.access.origin,
        "Content-Type": "application/json",
        "Content-Length": str(len(content)),
    }
    sent = {**own, **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection = http.client.HTTPConnection("127.0.0.1", viewer.port, timeout=20)
    connection.putrequest("POST", viewer.access.home + path)
    for name, value in sent.items():
        if value:
            connection.putheader(name, value)
    connection.endheaders(content)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, json.loads(text) if text.startswith("{") else {"error": text}


@pytest.fixture
def drawn_on(store_path: Path) -> Any:
    with Viewer(Library(store_path)) as viewer:
        yield viewer


def test_what_is_saved_is_read_by_roi_and_by_training(drawn_on: Viewer, store_path: Path, tmp_path: Path) -> None:
    status, answer = post(drawn_on, body(region(), region([[800, 300], [1000, 300], [1000, 900]], "Stroma")))
    assert (status, answer["notes"]) == (200, [])
    file = store_path.with_name("disc.geojson")
    store = SlideStore(store_path)
    roi = read_roi(file, slide=store, classes=["Tumour"])
    assert roi.notes == ()
    assert np.asarray(roi.shape.exterior.coords)[:-1].tolist() == TRIANGLE
    assert {drawn.label: drawn.shape.area for drawn in read_regions(file, slide=store)} == {
        "Tumour": pytest.approx(roi.shape.area),
        "Stroma": pytest.approx(60_000),
    }
    (tmp_path / "regions.csv").write_text("store,regions,patient\ndisc.zarr,disc.geojson,P1\n")
    table = read_stores(tmp_path / "regions.csv")
    assert set(table.classes) == {"Tumour", "Stroma"}
    inside = [roi.shape.buffer(0).contains(_point(at + 56)) for at in table.coords]
    assert inside == [name == "Tumour" for name in table.classes]


def _point(at: np.ndarray) -> Any:
    from shapely import Point

    return Point(*at)


def test_the_page_gets_the_regions_again(drawn_on: Viewer, made: Path) -> None:
    revision = post(drawn_on, body(region()))[1]["revision"]
    record = json.loads(get(drawn_on, f"/{PAGE}drawing")[1])
    (found,) = record["regions"]
    assert (found["label"], found["color"], found["corners"]) == ("Tumour", "#cc79a7", TRIANGLE)
    assert (record["revision"], record["fault"], record["file"]) == (revision, "", "disc.geojson")
    assert [item["name"] for item in record["classes"]][:2] == ["undifferentiated", "poorly differentiated"]
    status, again = post(drawn_on, body(found, revision=revision))
    assert (status, again["revision"]) == (200, revision), "nothing changed: the same file"


def test_the_file_counts_from_the_bounds_of_a_slide_that_states_some(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As QuPath does; the readers shift it back."""
    store = SlideStore(store_path)
    properties = {
        f"openslide.bounds-{name}": str(v) for name, v in zip(("x", "y", "width", "height"), (60, 40, 900, 800))
    }
    info = replace(store.info, properties={**store.info.properties, **properties})
    monkeypatch.setattr(SlideStore, "info", property(lambda _: info))
    drawn = DrawnRegions(store, StoredResults(store).class_map)
    drawn.save(body(region()))
    assert drawn.path is not None
    record = json.loads(drawn.path.read_text())
    assert record["features"][0]["geometry"]["coordinates"][0][0] == [340.0, 360.0]
    assert record["wsikit"]["frame"] == record["features"][0]["properties"]["metadata"]["frame"] == "bounds"
    assert np.asarray(read_roi(drawn.path, slide=store).shape.exterior.coords)[:-1].tolist() == TRIANGLE
    assert drawn.for_page()["regions"][0]["corners"] == TRIANGLE


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (
            region([[0, 0], [100, 100], [100, 0], [0, 100]]),
            r"region 1 \(Tumour\): its outline crosses .* near x=50, y=50",
        ),
        (region([[0, 0], [100, 100]]), "2 corners; an area has 3 or more"),
        (region([[0, 0], [0, 0], [0, 0], [5, 5]]), "2 corners"),
        (region([[0, 0], [50, 50], [100, 100]]), "crosses or touches itself"),
        (region([[0, 0], [1600, 0], [0, 9]]), "outside of the slide of 1500 × 1100 px"),
        (region([[0, 0], [float("nan"), 0], [0, 9]]), "outside of the slide"),
        (region([[0, 0], [float("inf"), 0], [0, 9]]), "outside of the slide"),
        (region([[0, 0], [True, 0], [0, 9]]), "not two numbers"),
        (region([[0, 0], ["9", 0], [0, 9]]), "not two numbers"),
        (region([[0, 0, 0]] * 3), "not two numbers"),
        (region([[0, 0]] * (MAX_CORNERS + 1)), "more than 10,000 corners"),
        (region("abc"), "no outline"),
        (region(label=""), "region 1 has no class"),
        (region(label=7), "region 1 has no class"),
        (region(label="a\u202eb"), "all of them visible"),
        (region(label="x" * 101), "at most 100 characters"),
        ("text", "no region"),
    ],
)
def test_a_broken_region_is_one_line_and_costs_nothing(
    drawn_on: Viewer, store_path: Path, wrong: Any, words: str
) -> None:
    revision = post(drawn_on, body(region()))[1]["revision"]
    before = store_path.with_name("disc.geojson").read_bytes()
    status, answer = post(drawn_on, body(wrong, revision=revision))
    assert status == 400
    assert "\n" not in answer["error"]
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(answer["error"])
    assert store_path.with_name("disc.geojson").read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"regions": 3}', b"\xff", b"[" * 100_000])
def test_what_is_no_set_of_regions_is_refused(drawn_on: Viewer, store_path: Path, content: bytes) -> None:
    status, answer = post(drawn_on, content)
    assert status == 400
    assert answer["error"]
    assert not store_path.with_name("disc.geojson").exists()


def test_sizes_are_bounded(drawn_on: Viewer, store_path: Path) -> None:
    assert post(drawn_on, b"", Content_Length=str(MAX_BYTES + 1))[0] == 413
    assert post(drawn_on, b"", Content_Length="")[0] == 411
    assert post(drawn_on, b"", Content_Length="-1")[0] == 411
    assert post(drawn_on, b"0\r\n\r\n", Content_Length="", Transfer_Encoding="chunked")[0] == 411
    status, answer = post(drawn_on, body(*[region()] * (MAX_REGIONS + 1)))
    assert (status, "at most 2,000" in answer["error"]) == (400, True)
    assert not store_path.with_name("disc.geojson").exists()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Cookie": ""}, 403),
        ({"Cookie": "wsikit-view=guess"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content_Type": ""}, 415),
    ],
)
def test_only_its_own_page_can_save(drawn_on: Viewer, store_path: Path, headers: dict[str, str], status: int) -> None:
    assert post(drawn_on, body(region()), **headers)[0] == status
    assert not store_path.with_name("disc.geojson").exists()


def test_the_token_in_the_address_does_not_save(drawn_on: Viewer, store_path: Path) -> None:
    """A form in a page of another site could send it; the cookie, which it cannot, is needed."""
    path = f"{PAGE}drawing?token={drawn_on.access.token}"
    assert post(drawn_on, body(region()), path, Cookie="")[0] == 403
    assert not store_path.with_name("disc.geojson").exists()


@pytest.mark.parametrize("path", ["slide/other/drawing", "slide/..%2f..%2fdisc/drawing", "slide/%2e%2e/drawing"])
def test_only_slides_that_are_shown_have_regions(drawn_on: Viewer, tmp_path: Path, path: str) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert post(drawn_on, body(region()), path)[0] == 404
    assert sorted(tmp_path.rglob("*")) == before
    assert raw(drawn_on, "/" + path, "POST")[0] == 405


def test_of_two_pages_the_second_does_not_overwrite_the_first(drawn_on: Viewer, store_path: Path) -> None:
    post(drawn_on, body(region()))
    kept = store_path.with_name("disc.geojson").read_bytes()
    status, answer = post(drawn_on, body(region(label="Stroma")))
    assert (status, "Reload the page" in answer["error"]) == (409, True)
    assert store_path.with_name("disc.geojson").read_bytes() == kept


@pytest.mark.parametrize(
    "content",
    [
        b'{"type": "FeatureCollection", "features": []}',
        b"not JSON",
        b'{"type": "FeatureCollection", "wsikit": {"drawn_in": "x"}, "features": [{"type": "Feature", "geometry": '
        b'{"type": "Point", "coordinates": [3, 4]}, "properties": {"classification": {"name": "a"}}}]}',
        b'{"wsikit": {"drawn_in": "x"}, "features": [{"type": "Feature", "geometry": {"type": "Polygon", '
        b'"coordinates": [[[0, 0], [9, 0], [9, 9], [0, 0]]]}, "properties": null}]}',
        b'{"wsikit": {"drawn_in": "x"}, "features": 7}',
    ],
)
def test_a_file_that_the_viewer_did_not_write_is_left_alone(drawn_on: Viewer, store_path: Path, content: bytes) -> None:
    file = store_path.with_name("disc.geojson")
    file.write_bytes(content)
    record = json.loads(get(drawn_on, f"/{PAGE}drawing")[1])
    assert "disc.geojson" in record["fault"]
    assert "\n" not in record["fault"]
    assert post(drawn_on, body(region()))[0] in (400, 409)
    assert file.read_bytes() == content


def test_a_link_is_not_followed(drawn_on: Viewer, store_path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"wsikit": {"drawn_in": "x"}, "features": []}')
    store_path.with_name("disc.geojson").symlink_to(secret)
    assert "a link" in json.loads(get(drawn_on, f"/{PAGE}drawing")[1])["fault"]
    assert post(drawn_on, body(region()))[0] == 400
    assert store_path.with_name("disc.geojson").is_symlink()


def test_a_folder_that_cannot_be_written_is_stated_and_nothing_is_left(
    drawn_on: Viewer, store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    status, answer = post(drawn_on, body(region()))
    assert (status, "No space left on device" in answer["error"]) == (500, True)
    assert [path.name for path in store_path.parent.iterdir()] == ["disc.zarr"]


def test_regions_of_two_classes_that_overlap_are_stated(drawn_on: Viewer) -> None:
    inner = [[480, 480], [520, 480], [520, 520]]
    _, answer = post(drawn_on, body(region(), region(inner, "Stroma"), region(inner)))
    (note,) = answer["notes"]
    assert note.startswith("Regions 1 (Tumour) and 2 (Stroma) overlap")


def test_a_run_with_the_folder_of_the_stores_finds_the_regions(made: Path, tmp_path: Path) -> None:
    from wsikit.batch.manifest import SlideEntry
    from wsikit.batch.rois import with_rois

    out = Path(shutil.copytree(made, tmp_path / "out"))
    with Viewer(Library(out)) as viewer:
        assert post(viewer, body(region()))[0] == 200
        assert get(viewer, "/")[0] == get(viewer, f"/{PAGE}")[0] == 200
    (entry,) = with_rois([SlideEntry("disc", "in/disc.svs")], out / "slides")
    assert Path(str(entry.roi)) == out / "slides" / "disc.geojson"


# ---- in a real browser


@pytest.fixture
def page(visit: Callable[..., None], browser: Any, drawn_on: Viewer, wait: Any) -> Any:
    """Opens the slide's page; what is unsaved is given up at the end."""

    def go(fragment: str = "") -> None:
        visit(drawn_on, PAGE + fragment)
        wait(browser, "return document.getElementById('live').dataset.draws === 'true'")
        browser.execute_script("wsikitViewer.animationTime = 0")

    yield go
    browser.execute_script("window.addEventListener('beforeunload', (e) => e.stopImmediatePropagation(), true)")
    browser.get("about:blank")


def on_screen(browser: Any, x: float, y: float, pane: str = "viewer") -> dict[str, float]:
    script = """const made = OpenSeadragon.getViewer(arguments[2]), item = made.world.getItemAt(0);
        const at = made.viewport.pixelFromPoint(item.imageToViewportCoordinates(arguments[0], arguments[1]), true);
        const box = made.canvas.getBoundingClientRect(); return {x: box.left + at.x, y: box.top + at.y}"""
    return dict(browser.execute_script(script, x, y, pane))


def mouse(browser: Any, kind: str, at: dict[str, float], **more: Any) -> None:
    browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **at, **more})


def click(browser: Any, x: float, y: float, pane: str = "viewer", **more: Any) -> None:
    at = on_screen(browser, x, y, pane)
    mouse(browser, "mouseMoved", at)
    for kind in ("mousePressed", "mouseReleased"):
        mouse(browser, kind, at, button="left", clickCount=1, **more)
    browser.execute_async_script("setTimeout(arguments[0], 350)")  # two quick ones would be a double click


def drag(browser: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    a, b = on_screen(browser, *start), on_screen(browser, *end)
    mouse(browser, "mouseMoved", a)
    mouse(browser, "mousePressed", a, button="left", clickCount=1)
    for step in range(1, 6):
        along = {key: a[key] + (b[key] - a[key]) * step / 5 for key in a}
        mouse(browser, "mouseMoved", along, button="left", buttons=1)
    mouse(browser, "mouseReleased", b, button="left", clickCount=1)


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def save(browser: Any, wait: Any) -> None:
    browser.find_element("id", "draw-save").click()
    wait(browser, "return document.getElementById('draw-status').textContent.startsWith('Saved in disc.geojson')")


@pytest.mark.browser
@pytest.mark.parametrize(("mpp", "corners"), [(1.0, TRIANGLE), (0.25, [[560, 500], [620, 505.5], [585, 560]])])
def test_a_polygon_drawn_in_the_browser_is_where_it_was_drawn(
    page: Any, browser: Any, wait: Any, store_path: Path, mpp: float, corners: list[list[float]]
) -> None:
    """To a pixel of level 0, where a screen pixel has two and where it has half of one."""
    page(f"#x=590&y=520&mpp={mpp}")
    scale = "750 / (wsikitViewer.viewport.getZoom(true) * wsikitViewer.container.clientWidth)"
    wait(browser, f"return Math.abs({scale} - {mpp}) < 1e-3")
    press(browser, "d")
    for x, y in corners:
        click(browser, x, y)
    click(browser, *corners[0])
    click(browser, *np.mean([corners[0], corners[1]], axis=0))
    browser.find_element("xpath", "//*[@id='draw-classes']/button[contains(., 'poorly')]").click()
    save(browser, wait)
    file, store = store_path.with_name("disc.geojson"), SlideStore(store_path)
    drawn = np.asarray(read_roi(file, slide=store).shape.exterior.coords)[:-1]
    assert drawn == pytest.approx(np.asarray(corners), abs=1)
    assert [found.label for found in read_regions(file, slide=store)] == ["poorly differentiated"]
    assert errors(browser) == []


@pytest.mark.browser
def test_a_rectangle_of_a_typed_class_is_drawn_saved_and_loaded_again(
    page: Any, browser: Any, wait: Any, store_path: Path
) -> None:
    page()
    browser.find_element("id", "tab-regions").click()
    browser.find_element("id", "draw-class").send_keys("Necrosis <b>\n")
    press(browser, "r")
    centre = browser.execute_script("return wsikitViewer.viewport.getCenter(true).x")
    drag(browser, (400, 300), (800, 700))
    assert browser.execute_script("return wsikitViewer.viewport.getCenter().x") == centre, "the slide stayed"
    press(browser, "s")
    save(browser, wait)
    (found,) = read_regions(store_path.with_name("disc.geojson"))
    assert found.label == "Necrosis <b>"
    assert found.shape.bounds == pytest.approx((400, 300, 800, 700), abs=1)
    page()
    assert browser.find_element("id", "region-count").get_attribute("textContent") == "(1)"
    assert browser.execute_script("return document.querySelector('.sheet text').textContent") == "Necrosis <b>"
    first = on_screen(browser, 400, 300)
    box = browser.execute_script(
        "const b = document.querySelector('.sheet .line').getBoundingClientRect(); return [b.x, b.y]"
    )
    assert box == pytest.approx([first["x"], first["y"]], abs=2), "shown where it was drawn"


@pytest.mark.browser
def test_corners_are_moved_added_and_removed_classes_changed_regions_deleted(
    page: Any, browser: Any, wait: Any, store_path: Path
) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    def saved() -> Any:
        save(browser, wait)
        (found,) = read_regions(store_path.with_name("disc.geojson"))
        return found

    page()
    press(browser, "r")
    drag(browser, (400, 300), (800, 700))
    click(browser, 800, 500)  # on its outline
    drag(browser, (800, 700), (900, 800))
    drag(browser, (600, 300), (600, 200))  # the dot in the middle of the upper edge
    found = saved()
    assert len(found.shape.exterior.coords) == 6
    assert found.shape.bounds == pytest.approx((400, 200, 900, 800), abs=1)
    click(browser, 600, 200, modifiers=8)  # with Shift
    browser.find_element("xpath", "//*[@id='draw-classes']/button[contains(., 'other')]").click()
    found = saved()
    assert found.shape.bounds == pytest.approx((400, 300, 900, 800), abs=1)
    assert found.label == "other tissue"
    press(browser, Keys.DELETE)
    assert browser.execute_script("return document.querySelectorAll('#draw-list li').length") == 0
    ActionChains(browser).key_down(Keys.CONTROL).send_keys("z").key_up(Keys.CONTROL).perform()
    assert browser.execute_script("return document.querySelectorAll('#draw-list li').length") == 1
    click(browser, 400, 500)  # on its outline
    assert browser.execute_script("return document.querySelectorAll('#draw-list .selected').length") == 1
    press(browser, Keys.ESCAPE)
    assert browser.execute_script("return document.querySelectorAll('#draw-list .selected').length") == 0
    assert errors(browser) == []


@pytest.mark.browser
def test_a_class_chosen_after_drawing_is_that_of_the_next_region(
    page: Any, browser: Any, wait: Any, store_path: Path
) -> None:
    page()
    for name, x in (("poorly", 400), ("other", 700)):
        browser.find_element("id", "tab-regions").click()
        browser.find_element("xpath", f"//*[@id='draw-classes']/button[contains(., '{name}')]").click()
        press(browser, "r")
        drag(browser, (x, 300), (x + 200, 700))
    save(browser, wait)
    found = {one.label: one.shape.bounds[0] for one in read_regions(store_path.with_name("disc.geojson"))}
    assert found == {"poorly differentiated": pytest.approx(400, abs=1), "other tissue": pytest.approx(700, abs=1)}


@pytest.mark.browser
def test_an_outline_that_crosses_itself_is_not_closed(page: Any, browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    page()
    press(browser, "d")
    for x, y in ((400, 300), (800, 700), (800, 300), (400, 700)):
        click(browser, x, y)
    press(browser, Keys.ENTER)
    assert "crosses itself" in browser.find_element("id", "draw-status").text
    press(browser, Keys.BACKSPACE, Keys.ENTER)
    assert browser.find_element("id", "region-count").text == "(1) •"
    press(browser, "d", Keys.ESCAPE)
    assert browser.find_element("id", "draw-polygon").get_attribute("aria-pressed") == "false"


@pytest.mark.browser
def test_unsaved_regions_are_not_lost_silently(page: Any, browser: Any, wait: Any) -> None:
    page()
    leaving = """const event = new Event('beforeunload', {cancelable: true}); window.dispatchEvent(event);
        return event.defaultPrevented"""
    assert not browser.execute_script(leaving)
    press(browser, "r")
    drag(browser, (400, 300), (800, 700))
    assert browser.execute_script(leaving), "the browser asks"
    assert browser.find_element("id", "region-count").text == "(1) •"
    save(browser, wait)
    assert not browser.execute_script(leaving)


@pytest.mark.browser
def test_what_the_server_refuses_stays_on_the_page(page: Any, browser: Any, wait: Any, store_path: Path) -> None:
    page()
    press(browser, "r")
    drag(browser, (400, 300), (800, 700))
    store_path.with_name("disc.geojson").write_text("{}")  # by another program, meanwhile
    browser.find_element("id", "draw-save").click()
    wait(browser, "return document.getElementById('draw-status').textContent.startsWith('Not saved: disc.geojson')")
    assert browser.find_element("id", "region-count").text == "(1) •"
    assert store_path.with_name("disc.geojson").read_text() == "{}"


@pytest.mark.browser
def test_regions_are_drawn_on_the_map_side_too(page: Any, browser: Any, wait: Any, store_path: Path) -> None:
    page()
    press(browser, "s")
    wait(
        browser,
        "return OpenSeadragon.getViewer('viewer-map')?.isOpen() && document.querySelectorAll('.sheet').length === 2",
    )
    wait(browser, "return OpenSeadragon.getViewer('viewer-map').world.getItemAt(0)?.getFullyLoaded()")
    press(browser, "d")
    corners = ((600, 400), (800, 420), (700, 600))
    for x, y in (*corners, corners[0]):
        click(browser, x, y, "viewer-map")
    save(browser, wait)
    (found,) = read_regions(store_path.with_name("disc.geojson"))
    assert np.asarray(found.shape.exterior.coords)[:-1] == pytest.approx(np.asarray(corners), abs=1)
    assert browser.execute_script("return document.querySelectorAll('#pane-slide .sheet .line').length") == 1
