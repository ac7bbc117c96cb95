"""A small store with predictions written by hand, its report, a run's folder, a running viewer, and a browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from wsikit.batch.index import write_index
from wsikit.batch.records import DONE, FAILED, SlideRow, write_row
from wsikit.inference.vote import vote
from wsikit.results.outputs import write_outputs
from wsikit.slides.store import SlideStore
from wsikit.store.receipts import Receipt
from wsikit.store.table import ColumnSpec
from wsikit.tiling.tile import tile
from wsikit.view.library import Library
from wsikit.view.server import Viewer

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
CLASSES = ("UD", "PD", "D", "other")
ATTACK = "</script><script>document.title='attacked'</script><img src=x onerror=\"document.title='attacked'\">"


def jpeg_slide(path: Path, pixels: np.ndarray) -> Path:
    """`pixels` (h, w, 3) as a tiled JPEG pyramid of 0.5 µm/px, two levels, 128-px tiles."""
    options: dict[str, Any] = {"tile": (128, 128), "compression": "jpeg", "photometric": "rgb", "metadata": None}
    half = pixels[:1100, :1500].reshape(550, 2, 750, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    with tifffile.TiffWriter(path) as writer:
        writer.write(pixels, resolution=(20000, 20000), resolutionunit="CENTIMETER", **options)
        writer.write(half, subfiletype=1, resolution=(10000, 10000), resolutionunit="CENTIMETER", **options)
    return path


def predict_by_hand(store: SlideStore) -> None:
    """PD left of x = 700, UD right of it, sure of it by 0.9 and 0.6; a caption per patch, the third is an attack."""
    table = store.patches()
    n, left = len(table), table.coords[:, 0] < 700
    probs = np.full((n, 4), 0.02, dtype=np.float32)
    probs[left, 1], probs[~left, 0] = 0.94, 0.7
    probs[~left, 1] = 0.26
    model = {
        "name": "by hand",
        "version": "1",
        "fingerprint": "abc",
        "class_names": ["undifferentiated", "poorly differentiated", "differentiating", "other tissue"],
        "colors": ["#d55e00", "#f0e442", "#0072b2", "#8c8c8c"],
        "background": ["other"],
        "notice": "A test's model.",
    }
    captions = np.array([f"Words about row {row}." for row in range(n)], dtype=object)
    captions[2] = ATTACK
    facts = np.column_stack([np.linspace(1000, 8000, n), np.full(n, 0.25)]).astype(np.float32)
    named = {"names": ["nuclei_per_mm2", "fibrillary_share"]}
    columns: list[tuple[ColumnSpec, Any]] = [
        (ColumnSpec("probability", "float32", 4, {"names": list(CLASSES), "model": model}), probs),
        (ColumnSpec("gate", "float32"), np.linspace(0, 1, n, dtype=np.float32)),
        (ColumnSpec("ood_score", "float32"), np.linspace(0.2, 1.2, n, dtype=np.float32)),
        (ColumnSpec("caption", "str"), captions),
        (ColumnSpec("caption_facts", "float32", 2, named), facts),
    ]
    for spec, values in columns:
        (rows,) = table.prepare([spec], Receipt("by hand", 1, {"column": spec.name}))
        table.write(spec.name, rows, values)
    vote(store)


@pytest.fixture(scope="session")
def drawn(pixels: np.ndarray) -> np.ndarray:
    """`pixels` with a black mark in the corner, where tiles are padded: uint8 (1100, 1500, 3)."""
    marked = pixels.copy()
    marked[1050:1070, 1440:1470] = 0
    return marked


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory, drawn: np.ndarray) -> Path:
    """A run's folder with one slide called, one that failed and one that abstained; its report is a real one."""
    out = tmp_path_factory.mktemp("run") / "out"
    source = jpeg_slide(out.parent / "disc.tiff", drawn)
    with tile(source, out / "slides" / "disc.zarr", patch_px=112) as store:
        predict_by_hand(store)
        summary = write_outputs(store, store.patches(), out / "results" / "disc")
    row = SlideRow("disc", str(source), DONE, "PD", summary.probability, 0.3, False, None, 40, 0.5, 0.0, 0.5, 0.5)
    write_row(out, row)
    write_row(out, SlideRow("case10", "in/case10.svs", FAILED, error=f"broken: {ATTACK}"))
    write_row(
        out, SlideRow("case9", "in/case9.svs", DONE, None, {"PD": 0.5}, 0.04, True, "margin 0.04 is below 0.1", 9)
    )
    write_index(out)
    return out


@pytest.fixture
def store_path(made: Path, tmp_path: Path) -> Path:
    """A copy of the store that a test may spoil."""
    return Path(shutil.copytree(made / "slides" / "disc.zarr", tmp_path / "disc.zarr"))


@pytest.fixture(scope="session")
def run_viewer(made: Path) -> Iterator[Viewer]:
    with Viewer(Library(made)) as viewer:
        yield viewer


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Headless Chromium; the test is skipped where there is none."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install .[test]")
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium with chromedriver on this machine: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    profile = tmp_path_factory.mktemp("chromium")
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.page_load_strategy = "eager"  # the tests wait for what they need; the last picture of a page may come late
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    driver.set_page_load_timeout(60)
    set_size(driver, 1366, 768)
    yield driver
    driver.quit()


def set_size(driver: Any, width: int, height: int) -> None:
    """Of what is inside the window, px."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.fixture
def resize(browser: Any) -> Callable[[int, int], None]:
    return lambda width, height: set_size(browser, width, height)


@pytest.fixture
def visit(browser: Any) -> Callable[..., None]:
    """Opens an address, or a page of a viewer, in the browser with its logs empty; waits until the slide is there."""

    def go(address: str | Viewer, page: str = "", *, offline: bool = False, viewer: bool = True) -> None:
        if isinstance(address, Viewer):
            name, _, value = address.access.cookie.partition(";")[0].partition("=")
            cookie = {"name": name, "value": value, "url": address.page(), "path": address.access.home}
            browser.execute_cdp_cmd("Network.setCookie", {**cookie, "httpOnly": True, "sameSite": "Strict"})
            address = address.page(page)
        browser.get("about:blank")
        browser.get_log("browser"), browser.get_log("performance")
        browser.execute_cdp_cmd("Network.enable", {})
        browser.execute_cdp_cmd(
            "Network.emulateNetworkConditions",
            {"offline": offline, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1},
        )
        browser.get(address)
        if viewer:
            wait(browser, "return document.getElementById('live').dataset.ready === 'true'")
            wait(
                browser,
                "return wsikitViewer.world.getItemCount() > 1 && wsikitViewer.world.getItemAt(0).getFullyLoaded()",
            )

    return go


def wait(browser: Any, script: str, seconds: float = 20) -> Any:
    """The script's answer, once it is true."""
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds, poll_frequency=0.05).until(lambda driver: driver.execute_script(script))


@pytest.fixture(scope="session", name="wait")
def wait_fixture() -> Callable[..., Any]:
    return wait
