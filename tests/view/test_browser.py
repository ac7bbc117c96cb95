"""The pages in a real browser: no errors, no requests, maps that show, patches that tell, keys that work."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from wsikit.exporters.patchdata import pack
from wsikit.exporters.report import write_report
from wsikit.results.load import StoredResults
from wsikit.results.report import report_data
from wsikit.slides.store import SlideStore
from wsikit.view.library import Library
from wsikit.view.server import Viewer

pytestmark = pytest.mark.browser

Visit = Callable[..., None]
Wait = Callable[..., Any]


@pytest.fixture(scope="module")
def report(made: Path) -> str:
    return (made / "results" / "disc" / "report.html").as_uri()


def errors(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def requests(browser: Any) -> list[str]:
    """Addresses that the page asked for since its logs were emptied."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [address for address in sent if not address.startswith(("data:", "about:"))]


def slide_picture(browser: Any, identifier: str = "viewer") -> np.ndarray:
    """What the viewer shows now, (h, w, 3)."""
    element = browser.find_element("id", identifier)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(element.screenshot_as_base64))).convert("RGB")).astype(int)


def wait_for_stable_view(wait: Wait, browser: Any) -> None:
    """Waits until nothing moves and all tiles in sight are there."""
    wait(browser, "return !wsikitViewer.isAnimating?.() && wsikitViewer.world.getItemAt(0).getFullyLoaded()")
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def text(browser: Any, identifier: str) -> str:
    return str(browser.find_element("id", identifier).text)


def row_at(made: Path, x: int, y: int) -> int:
    """Row of the patch that covers a place, level-0 px."""
    coords = SlideStore(made / "slides" / "disc.zarr").patches().coords
    inside = ((coords <= (x, y)) & (coords + 112 > (x, y))).all(axis=1)
    (row,) = np.flatnonzero(inside)
    return int(row)


def point_at(browser: Any, x: int, y: int, click: bool = False) -> None:
    """Moves the pointer to a place on the slide."""
    script = """document.getElementById('live').scrollIntoView({block: 'end'});
        const point = wsikitViewer.world.getItemAt(0).imageToViewportCoordinates(arguments[0], arguments[1]);
        const at = wsikitViewer.viewport.pixelFromPoint(point), box = wsikitViewer.canvas.getBoundingClientRect();
        return {x: box.left + at.x, y: box.top + at.y}"""
    place = browser.execute_script(script, x, y)
    buttons = {"button": "left", "clickCount": 1}
    for kind, more in (("mouseMoved", {}), ("mousePressed", buttons), ("mouseReleased", buttons))[: 3 if click else 1]:
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **place, **more})


def panel(browser: Any, row: int, wait: Wait) -> dict[str, str]:
    """What the page says about the patch under the pointer, once it has all of it."""
    shown = "const some = document.getElementById('patch-some'); return some.dataset.row === arguments[0] && "
    wait(browser, shown.replace("arguments[0]", f"'{row}'") + "some.dataset.complete === 'true'")
    return {name: text(browser, f"patch-{name}") for name in ("title", "place", "caption", "probs", "facts")}


@pytest.fixture(scope="module")
def divided(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same report with the data of the patches next to it."""
    page = tmp_path_factory.mktemp("divided") / "my report.html"
    write_report(page, report_data(StoredResults(SlideStore(made / "slides" / "disc.zarr")), patch_bytes=1))
    return page


@pytest.fixture(scope="module")
def without_facts(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same report, whose page holds classes and captions of all patches, and not their facts."""
    page = tmp_path_factory.mktemp("facts") / "report.html"
    data = report_data(StoredResults(SlideStore(made / "slides" / "disc.zarr")))
    whole = pack(data.class_map, data.words, [example.row for example in data.examples])
    write_report(page, replace(data, patch_bytes=len(base64.b64decode(whole.block)) - 1))
    assert page.with_name("report_patches").is_dir()
    return page


def test_patches_next_to_the_page_are_loaded_when_they_are_pointed_at(
    visit: Visit, browser: Any, report: str, divided: Path, without_facts: Path, made: Path, wait: Wait
) -> None:
    places = [(500, 500), (900, 400), (760, 700)]
    said: list[list[dict[str, str]]] = []
    for address in (report, without_facts.as_uri(), divided.as_uri()):
        visit(address, offline=True)
        said.append([])
        for x, y in places:
            point_at(browser, x, y)
            said[-1].append(panel(browser, row_at(made, x, y), wait))
        assert not errors(browser)
    assert said[0] == said[1] == said[2]
    assert len({record["caption"] for record in said[0]}) == len(places)
    loaded = [address for address in requests(browser) if address.endswith(".js")]
    assert len(loaded) == len(set(loaded)) == 1, "one file holds all of them"


def test_a_page_without_its_folder_says_what_is_missing(
    visit: Visit, browser: Any, divided: Path, tmp_path: Path, wait: Wait
) -> None:
    alone = tmp_path / divided.name
    alone.write_bytes(divided.read_bytes())
    visit(alone.as_uri(), offline=True)
    point_at(browser, 900, 400)
    wait(browser, "return document.getElementById('patch-none').textContent.includes('my report_patches')")
    assert "is not there" in text(browser, "patch-none")
    browser.find_element("css selector", "button[data-row]").click()
    assert "Words about" in text(browser, "patch-caption"), "the patches that the page shows are in it"


def test_the_viewer_serves_the_patches_that_do_not_fit_into_the_page(
    visit: Visit, browser: Any, made: Path, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsikit.view.library.PATCH_BYTES", 1)
    with Viewer(Library(made / "slides" / "disc.zarr")) as viewer:
        visit(viewer)
        point_at(browser, 900, 400)
        row = row_at(made, 900, 400)
        assert f"Words about row {row}." in panel(browser, row, wait)["caption"]
        assert any("patch-data/" in address for address in requests(browser))
        assert not errors(browser)


def test_the_report_opens_from_disk_without_network_and_without_an_error(
    visit: Visit, browser: Any, report: str
) -> None:
    visit(report, offline=True)
    assert errors(browser) == []
    assert requests(browser) == [report]
    assert browser.title == "disc · wsikit report"


def test_maps_toggle_and_change_what_is_seen(visit: Visit, browser: Any, report: str, wait: Wait) -> None:
    visit(report)
    seen = {}
    for key in ("", "subtype", "probability-UD", "gate", "ood_score"):
        browser.find_element("css selector", f"input[name=layer][value='{key}']").click()
        wait_for_stable_view(wait, browser)
        seen[key] = slide_picture(browser)
    assert all(np.abs(seen[key] - seen[""]).mean() > 3 for key in seen if key)
    assert np.abs(seen["gate"] - seen["subtype"]).mean() > 3
    shown = browser.find_elements("css selector", ".layer-legend:not([hidden])")
    assert [legend.get_attribute("data-layer") for legend in shown] == ["ood_score"]


def test_opacity_and_the_m_key_take_the_map_away(visit: Visit, browser: Any, report: str, wait: Wait) -> None:
    visit(report)
    wait_for_stable_view(wait, browser)
    with_map = slide_picture(browser)
    browser.execute_script(
        "const o = document.getElementById('opacity'); o.value = 0; o.dispatchEvent(new Event('input'))"
    )
    wait_for_stable_view(wait, browser)
    bare = slide_picture(browser)
    browser.execute_script(
        "const o = document.getElementById('opacity'); o.value = 60; o.dispatchEvent(new Event('input'))"
    )
    browser.find_element("css selector", "body").send_keys("m")
    wait_for_stable_view(wait, browser)
    assert np.abs(with_map - bare).mean() > 3
    assert np.abs(slide_picture(browser) - bare).mean() < 0.5
    assert browser.find_element("css selector", "input[name=layer][value='']").is_selected()


def test_the_map_lies_where_the_patches_are(visit: Visit, browser: Any, report: str, wait: Wait) -> None:
    """PD, yellow, was put left of x = 700 and UD, vermillion, right of it."""
    visit(report)
    wait_for_stable_view(wait, browser)
    browser.find_element("id", "show-pins").click()
    picture = slide_picture(browser)
    script = """const p = wsikitViewer.world.getItemAt(0).imageToViewportCoordinates(arguments[0], arguments[1]);
        const at = wsikitViewer.viewport.pixelFromPoint(p); return [at.x, at.y]"""
    colors = []
    for x in (650, 810):
        at_x, at_y = (round(value) for value in browser.execute_script(script, x, 560))
        colors.append(picture[at_y - 4 : at_y + 5, at_x - 4 : at_x + 5].reshape(-1, 3).mean(axis=0))
    yellow, vermillion = colors
    assert yellow[1] > vermillion[1] + 30  # the greener one


def test_the_patch_under_the_pointer_is_described(visit: Visit, browser: Any, report: str, made: Path) -> None:
    visit(report)
    row = row_at(made, 650, 560)
    point_at(browser, 650, 560)
    assert browser.find_element("id", "patch-some").get_attribute("data-row") == str(row)
    assert text(browser, "patch-title") == "Poorly differentiated (PD)"
    assert text(browser, "patch-caption") == f"Words about row {row}."
    assert "0.94" in text(browser, "patch-probs")
    assert "weight of the text (gate)" in text(browser, "patch-facts")
    assert "/mm²" in text(browser, "patch-facts")
    point_at(browser, 300, 160)  # glass
    assert browser.find_element("id", "patch-none").is_displayed()


def test_a_click_selects_a_patch_until_escape(visit: Visit, browser: Any, report: str, made: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    visit(report)
    kept, other = row_at(made, 650, 560), row_at(made, 820, 620)
    point_at(browser, 650, 560, click=True)
    point_at(browser, 820, 620)
    assert browser.find_element("id", "patch-some").get_attribute("data-row") == str(kept)
    browser.find_element("css selector", "body").send_keys(Keys.ESCAPE)
    assert browser.find_element("id", "patch-some").get_attribute("data-row") == str(other)


def test_the_patchs_picture_is_cut_from_the_slide(
    visit: Visit, browser: Any, report: str, made: Path, drawn: np.ndarray, wait: Wait
) -> None:
    visit(report)
    point_at(browser, 650, 560)
    script = "return document.getElementById('patch-canvas').toDataURL('image/png').length > 20000"
    wait(browser, script)
    url = browser.execute_script("return document.getElementById('patch-canvas').toDataURL('image/png')")
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGB").resize((112, 112)))
    x, y = SlideStore(made / "slides" / "disc.zarr").patches().coords[row_at(made, 650, 560)]
    assert np.abs(shown.astype(int) - drawn[y : y + 112, x : x + 112]).mean() < 8
    assert "0.5 µm/px" in text(browser, "patch-depth")


def test_outlines_of_the_patches_can_be_taken_away(visit: Visit, browser: Any, report: str, wait: Wait) -> None:
    visit(report)
    pins = browser.find_elements("class name", "pin-live")
    assert pins
    assert all(pin.is_displayed() for pin in pins)
    browser.find_element("id", "show-pins").click()
    wait_for_stable_view(wait, browser)
    assert not any(pin.is_displayed() for pin in pins)


def test_captions_stay_text(visit: Visit, browser: Any, report: str, made: Path) -> None:
    """The caption of row 2 is a script; it is read, not run."""
    visit(report)
    x, y = SlideStore(made / "slides" / "disc.zarr").patches().coords[2] + 56
    point_at(browser, int(x), int(y))
    assert text(browser, "patch-caption").startswith("</script><script>document.title=")
    assert browser.title == "disc · wsikit report"
    assert browser.execute_script("return document.querySelectorAll('#patch img, #patch script').length") == 0
    assert errors(browser) == []


def test_the_slide_is_moved_and_asked_by_keys_alone(visit: Visit, browser: Any, report: str, wait: Wait) -> None:
    from selenium.webdriver.common.keys import Keys

    visit(report)
    canvas = browser.find_element("css selector", "#viewer .openseadragon-canvas")
    browser.execute_script("wsikitViewer.canvas.focus()")
    zoom = "return wsikitViewer.viewport.getZoom()"
    before = browser.execute_script(zoom)
    canvas.send_keys("+")
    wait(browser, f"{zoom} > {before} * 1.05")
    centre = browser.execute_script("return wsikitViewer.viewport.getCenter().x")
    canvas.send_keys(Keys.ARROW_RIGHT)
    wait(browser, f"return wsikitViewer.viewport.getCenter().x > {centre}")
    canvas.send_keys("r")
    assert browser.execute_script("return wsikitViewer.viewport.getRotation()") == 0
    canvas.send_keys("n")
    wait(browser, "return !document.getElementById('patch-some').hidden")
    assert "kept" in text(browser, "patch-place")


def test_a_shown_patch_leads_to_its_place_at_full_resolution(
    visit: Visit, browser: Any, report: str, wait: Wait
) -> None:
    visit(report)
    button = browser.find_element("css selector", "button[data-row]")
    row = button.get_attribute("data-row")
    browser.execute_script("arguments[0].click()", button)
    wait_for_stable_view(wait, browser)
    assert browser.find_element("id", "patch-some").get_attribute("data-row") == row
    assert browser.execute_script("return wsikitViewer.viewport.getZoom() / wsikitViewer.viewport.getHomeZoom()") > 2
    assert "finest level here" not in text(browser, "zoom-label")


def test_without_scripts_and_on_paper_there_are_static_images(visit: Visit, browser: Any, report: str) -> None:
    visit(report)
    assert not browser.find_element("class name", "still").is_displayed()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert browser.find_element("class name", "still").is_displayed()
        assert not browser.find_element("id", "live").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.parametrize("width", [1024, 1366, 1920])
def test_the_page_fits_its_window(
    visit: Visit, browser: Any, report: str, resize: Callable[..., None], width: int
) -> None:
    resize(width, 1080)
    visit(report)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert browser.execute_script("return window.innerWidth") == width
    resize(1366, 768)


def test_the_table_of_slides_sorts_and_finds(visit: Visit, browser: Any, made: Path) -> None:
    visit((made / "index.html").as_uri(), offline=True, viewer=False)

    def order() -> list[str]:
        cells = browser.find_elements("css selector", "#slides tbody tr:not([hidden]) .name")
        return [cell.text for cell in cells]

    def sort(name: str) -> list[str]:
        browser.find_element("xpath", f"//th/button[text()='{name}']").click()
        return order()

    assert sort("Slide") == ["disc", "case10", "case9"]  # it was by slide already: now the other way round
    assert sort("Slide") == ["case9", "case10", "disc"]  # 9 before 10
    assert sort("Margin") == ["case9", "disc", "case10"]
    assert sort("Margin") == ["disc", "case9", "case10"]  # without a value last, both ways
    assert sort("Status")[0] == "case9"
    assert sort("Unreadable")[0] == "disc"
    browser.find_element("id", "find").send_keys("broken")
    assert order() == ["case10"]
    assert errors(browser) == []
    assert browser.title != "attacked"
    assert browser.execute_script("return [...document.images].every((image) => image.naturalWidth > 0)")


def test_the_table_leads_to_the_report(visit: Visit, browser: Any, made: Path, report: str) -> None:
    visit((made / "index.html").as_uri(), viewer=False)
    browser.find_element("link text", "disc").click()
    assert browser.current_url == report


def test_the_viewer_asks_for_deeper_tiles_as_it_zooms(
    visit: Visit, browser: Any, run_viewer: Viewer, wait: Wait
) -> None:
    visit(run_viewer, "slide/disc/")
    first = [urlsplit(address).path for address in requests(browser)]
    assert any("/tile/0/" in path for path in first)
    assert not any("/tile/1/" in path for path in first)
    browser.execute_script("wsikitViewer.viewport.zoomTo(6).applyConstraints(true)")
    wait(browser, "return wsikitViewer.world.getItemAt(0).lastDrawn.some((drawn) => drawn.tile.level === 1)")
    wait_for_stable_view(wait, browser)
    assert any("/tile/1/" in address for address in requests(browser))
    assert errors(browser) == []


def test_the_viewer_shows_the_slide_as_it_is(
    visit: Visit, browser: Any, run_viewer: Viewer, drawn: np.ndarray, wait: Wait
) -> None:
    """The corner included, where the stored tiles are padded beyond the slide."""
    visit(run_viewer, "slide/disc/")
    browser.find_element("css selector", "input[name=layer][value='']").click()
    browser.find_element("id", "show-pins").click()
    for place in ((600, 500), (1355, 960)):
        script = """const item = wsikitViewer.world.getItemAt(0);
            wsikitViewer.viewport.fitBounds(item.imageToViewportRectangle(...arguments, 200, 200), true)"""
        browser.execute_script(script, *place)
        wait(browser, "return wsikitViewer.world.getItemAt(0).lastDrawn.some((drawn) => drawn.tile.level === 1)")
        wait_for_stable_view(wait, browser)
        script = """const box = wsikitViewer.viewport.getBounds(true);
            const found = wsikitViewer.world.getItemAt(0).viewportToImageRectangle(box);
            return [found.x, found.y, found.width, found.height]"""
        left, top, width, height = browser.execute_script(script)
        picture = Image.fromarray(slide_picture(browser).astype(np.uint8))
        shown = np.asarray(picture.resize((round(width), round(height)), Image.Resampling.BOX)).astype(int)
        x, y = place[0] + 60, place[1] + 60  # clear of buttons, scale bar and navigator
        shown = shown[round(y - top) :, round(x - left) :][:60, :65]
        off = {
            (dx, dy): np.abs(shown - drawn[y + dy :, x + dx :][:60, :65]).mean()
            for dx, dy in ((0, 0), (4, 0), (-4, 0), (0, 4), (0, -4))
        }
        assert off[0, 0] < 10
        assert min(off, key=lambda shift: off[shift]) == (0, 0)


def test_the_viewers_patch_picture_comes_from_its_server(
    visit: Visit, browser: Any, run_viewer: Viewer, made: Path
) -> None:
    visit(run_viewer, "slide/disc/")
    point_at(browser, 650, 560)
    row = row_at(made, 650, 560)
    assert text(browser, "patch-caption") == f"Words about row {row}."
    assert any(address.endswith(f"/slide/disc/patch/{row}.jpg") for address in requests(browser))
    assert errors(browser) == []
