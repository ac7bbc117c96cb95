"""Ways to move in the viewer, in a real browser: keys, slide and map side by side, addresses that hold a place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.view.test_browser import errors, slide_picture, wait_for_stable_view
from wsikit.view.server import Viewer

pytestmark = pytest.mark.browser

Visit = Callable[..., None]
Wait = Callable[..., Any]

PLACE = """const view = wsikitViewer.viewport, middle = view.getCenter(false), item = wsikitViewer.world.getItemAt(0);
    const at = item.viewportToImageCoordinates(middle);
    return [at.x, at.y, 0.5 * 1500 / (view.getZoom(false) * wsikitViewer.container.clientWidth)]"""
"""Centre of the view, level-0 px, and µm per screen pixel: where the view goes."""
PANES = """const views = [wsikitViewer, OpenSeadragon.getViewer('viewer-map')].map((viewer) => viewer.viewport);
    return views.map((view) => [view.getCenter(true).x, view.getCenter(true).y, view.getZoom(true)])"""


@pytest.fixture
def page(visit: Visit, browser: Any, run_viewer: Viewer, wait: Wait) -> Callable[[str], None]:
    """Opens the slide's page, with the end of its address."""

    def go(fragment: str = "") -> None:
        visit(run_viewer, f"slide/disc/{fragment}")
        wait(browser, "return document.getElementById('live').dataset.navigates === 'true'")
        browser.execute_script("wsikitViewer.animationTime = 0")

    return go


def press(browser: Any, *keys: str) -> None:
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def place(browser: Any) -> list[float]:
    return list(browser.execute_script(PLACE))


def layer(browser: Any) -> str:
    return str(browser.execute_script("return document.querySelector('input[name=layer]:checked').value"))


def test_keys_move_and_zoom_from_the_first_moment(page: Callable[[], None], browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    page()
    press(browser, "+", "+", "+")
    x, y, mpp = place(browser)
    press(browser, Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
    moved = place(browser)
    assert moved[0] > x + 30
    assert moved[1] > y + 30
    press(browser, Keys.ARROW_LEFT, Keys.ARROW_UP, "-")
    back = place(browser)
    assert back[:2] == pytest.approx([x, y], abs=1)
    assert back[2] == pytest.approx(1.3 * mpp)
    press(browser, "0")
    whole = place(browser)
    assert whole[:2] == pytest.approx([750, 550], abs=1)
    assert errors(browser) == []


def test_numbers_choose_the_map(page: Callable[[], None], browser: Any) -> None:
    page()
    names = browser.execute_script("return [...document.querySelectorAll('input[name=layer]')].map((i) => i.value)")
    assert names[-1] == ""
    for number, name in enumerate(names[:-1], 1):
        press(browser, str(number))
        assert layer(browser) == name
    press(browser, "9")
    assert layer(browser) == names[-2], "there is no such map"
    press(browser, "m")
    assert layer(browser) == ""


def test_arrows_outside_of_the_slide_scroll_the_page(page: Callable[[], None], browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    page()
    before = place(browser)
    browser.execute_script("document.activeElement.blur()")
    press(browser, Keys.ARROW_RIGHT)
    assert place(browser) == before


def test_letters_typed_elsewhere_are_not_keys(page: Callable[[], None], browser: Any) -> None:
    page()
    browser.execute_script("document.body.insertAdjacentHTML('afterbegin', '<input id=typed>')")
    browser.find_element("id", "typed").send_keys("s+1m")
    assert browser.execute_script("return document.getElementById('typed').value") == "s+1m"
    assert not browser.execute_script("return document.getElementById('live').classList.contains('split')")
    assert layer(browser) == "subtype"


def test_a_question_mark_lists_the_keys(page: Callable[[], None], browser: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    page()
    box = browser.find_element("id", "keys")
    assert not box.is_displayed()
    press(browser, "?")
    assert "side by side" in box.text
    before = place(browser)
    press(browser, "+")
    assert place(browser) == before, "keys act on the list"
    press(browser, Keys.ESCAPE)
    assert not box.is_displayed()
    browser.find_element("id", "show-keys").click()
    assert box.is_displayed()


def test_side_by_side_shows_the_slide_and_the_map_at_the_same_place(
    page: Callable[[], None], browser: Any, wait: Wait
) -> None:
    page()
    _, _, mpp = place(browser)
    press(browser, "s")
    wait(browser, "return OpenSeadragon.getViewer('viewer-map')?.world.getItemCount() > 1")
    wait(browser, "return OpenSeadragon.getViewer('viewer-map').world.getItemAt(0).getFullyLoaded()")
    wait_for_stable_view(wait, browser)
    browser.find_element("id", "show-pins").click()
    assert place(browser)[2] == pytest.approx(mpp, rel=1e-3), "at the same scale"
    slide, drawn = np.split(slide_picture(browser, "live")[:, : 2 * (900 // 2)], 2, axis=1)
    width = browser.execute_script("return document.getElementById('pane-map').clientWidth")
    middle = (slice(200, 300), slice(width // 2 - 50, width // 2 + 50))
    assert slide[middle][..., 2].mean() > drawn[middle][..., 2].mean() + 30, "yellow and red lie over the right one"
    browser.find_element("id", "split").click()
    assert not browser.find_element("id", "pane-map").is_displayed()
    assert place(browser)[2] == pytest.approx(mpp, rel=1e-3)
    assert errors(browser) == []


@pytest.mark.parametrize("moved", ["viewer", "viewer-map"])
def test_both_sides_move_together(page: Callable[[], None], browser: Any, wait: Wait, moved: str) -> None:
    page()
    press(browser, "s")
    wait(browser, "return OpenSeadragon.getViewer('viewer-map')?.isOpen()")
    wait(
        browser,
        PANES.replace("return views", "const [a, b] = views") + "; return a.every((v, i) => Math.abs(v - b[i]) < 1e-9)",
    )
    before = browser.execute_script(PANES)
    box = browser.find_element("id", moved).rect
    middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    mouse = "Input.dispatchMouseEvent"
    browser.execute_cdp_cmd(mouse, {"type": "mouseMoved", **middle})
    browser.execute_cdp_cmd(mouse, {"type": "mouseWheel", **middle, "deltaX": 0, "deltaY": -240})
    wait_for_stable_view(wait, browser)
    browser.execute_cdp_cmd(mouse, {"type": "mousePressed", **middle, "button": "left", "clickCount": 1})
    for step in range(1, 6):
        along = {"x": middle["x"] - 12 * step, "y": middle["y"] + 8 * step}
        browser.execute_cdp_cmd(mouse, {"type": "mouseMoved", **along, "button": "left", "buttons": 1})
    browser.execute_cdp_cmd(mouse, {"type": "mouseReleased", **along, "button": "left", "clickCount": 1})
    wait_for_stable_view(wait, browser)
    first, second = wait(
        browser,
        PANES.replace("return views", "const both = views")
        + "; return Math.abs(both[0][0] - both[1][0]) < 1e-6 && both",
    )
    assert first == pytest.approx(second, abs=1e-6)
    assert first[2] > 1.1 * before[0][2]
    assert first[0] > before[0][0]
    assert first[1] < before[0][1]
    other = "cursor-map" if moved == "viewer" else "cursor-slide"
    assert browser.find_element("id", other).is_displayed(), "the pointer's place in the other one"


def test_an_address_opens_at_its_place(page: Callable[[str], None], browser: Any, wait: Wait) -> None:
    page("#x=612&y=487&mpp=0.4&layer=gate")
    wait(browser, f"return ((found) => Math.abs(found[0] - 612) < 1 && found)((() => {{{PLACE}}})())")
    assert place(browser) == pytest.approx([612, 487, 0.4], abs=0.5)
    assert layer(browser) == "gate"


def test_a_copied_address_opens_at_the_same_place_again(
    page: Callable[[str], None], browser: Any, run_viewer: Viewer, wait: Wait
) -> None:
    page()
    assert browser.current_url == run_viewer.page("slide/disc/"), "the first view needs none"
    length = browser.execute_script("return history.length")
    press(browser, "+", "+", "+", "+", "2", "s")
    wait(browser, "return OpenSeadragon.getViewer('viewer-map')?.isOpen()")
    wait(browser, "return location.hash.includes('split=1')")
    wait_for_stable_view(wait, browser)
    wait(
        browser,
        "const hash = location.hash; return new Promise((go) => setTimeout(() => go(hash === location.hash), 300))",
    )
    was, address = place(browser), browser.current_url
    assert browser.execute_script("return history.length") == length, "moving does not fill the history"
    assert layer(browser) == "probability-UD"
    page("")
    browser.get("about:blank")
    browser.get(address)
    wait(browser, "return document.getElementById('live')?.dataset.navigates === 'true'")
    wait(browser, "return OpenSeadragon.getViewer('viewer-map')?.isOpen()")
    wait_for_stable_view(wait, browser)
    assert place(browser) == pytest.approx(was, rel=2e-3, abs=1)
    assert layer(browser) == "probability-UD"
    assert browser.find_element("id", "pane-map").is_displayed()


@pytest.mark.parametrize("fragment", ["#x=a&y=&mpp=-1", "#x=1e400&y=3&mpp=1", "#layer=nothing", "#%", "#x=5"])
def test_an_address_that_names_no_place_shows_the_slide(
    page: Callable[[str], None], browser: Any, fragment: str
) -> None:
    page()
    before = place(browser)
    page(fragment)
    assert place(browser) == pytest.approx(before)
    assert layer(browser) == "subtype"
    assert errors(browser) == []


def test_a_report_on_disk_has_keys_side_by_side_and_places_too(
    visit: Visit, browser: Any, made: Path, wait: Wait
) -> None:
    visit(
        (made / "results" / "disc" / "report.html").as_uri() + "#x=612&y=487&mpp=0.6&layer=gate&split=1", offline=True
    )
    wait(browser, "return OpenSeadragon.getViewer('viewer-map')?.isOpen()")
    wait(browser, f"return ((found) => Math.abs(found[0] - 612) < 1 && found)((() => {{{PLACE}}})())")
    wait(
        browser,
        PANES.replace("return views", "const [a, b] = views") + "; return a.every((v, i) => Math.abs(v - b[i]) < 1e-6)",
    )
    assert place(browser) == pytest.approx([612, 487, 0.6], abs=0.5)
    assert errors(browser) == []


@pytest.mark.parametrize("split", ["", "#split=1"])
def test_everything_of_the_viewer_is_in_sight_on_a_laptop(
    page: Callable[[str], None], browser: Any, split: str
) -> None:
    """1366 × 768 px, with nothing scrolled."""
    page(split)
    script = """const cut = [];
        for (const part of document.querySelectorAll('.stage, .toolbar button, .maps, .maps input, #patch, .help')) {
          const box = part.getBoundingClientRect();
          const cutOff = box.left < 0 || box.top < 0 || box.right > innerWidth || box.bottom > innerHeight;
          if (cutOff) cut.push(part.outerHTML);
        }
        return cut"""
    assert browser.execute_script(script) == []
