"""Only who has the viewer's address reads slides: no other account of the computer, no other page in the browser."""

from __future__ import annotations

import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.view.test_server import get, raw
from wsikit.cli import view
from wsikit.view.access import Access
from wsikit.view.library import Library
from wsikit.view.server import Viewer

PAGES = ("/", "/slide/disc/", "/slide/disc/tile/0/0_0.jpg", "/slide/disc/patch/0.jpg", "/slide/disc/thumbnail.jpg")


@pytest.mark.parametrize("path", [*PAGES, "/nothing"])
def test_without_the_token_nothing_is_read(run_viewer: Viewer, path: str) -> None:
    """Nor does the answer depend on whether there is such a page."""
    home, token = run_viewer.access.home.rstrip("/"), run_viewer.access.token
    wrong = token[:-1] + ("a" if token[-1] != "a" else "b")
    tries = [
        raw(run_viewer, path),
        raw(run_viewer, home + path),
        raw(run_viewer, f"{home}{path}?token="),
        raw(run_viewer, f"{home}{path}?token={wrong}"),
        raw(run_viewer, home + path, Cookie=f"wsikit-view={wrong}"),
        raw(run_viewer, home + path, Cookie=f"wsikit-view={token}x; other={token}"),
        raw(run_viewer, home + path, Cookie="wsikit-view=\xff\xfe"),
        raw(run_viewer, path, Cookie=f"wsikit-view={token}"),
    ]
    assert {status for status, _, _ in tries} == {403}
    assert len({body for _, body, _ in tries}) == 1
    assert not any("set-cookie" in headers for _, _, headers in tries)


@pytest.mark.parametrize("path", PAGES)
def test_with_the_cookie_of_the_first_page_everything_is(run_viewer: Viewer, path: str) -> None:
    status, page, headers = raw(run_viewer, run_viewer.url.removeprefix(run_viewer.access.origin))
    assert status == 200
    assert run_viewer.access.token.encode() not in page
    pair, *rules = headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict", f"Path={run_viewer.access.home}"} == set(rules)
    assert raw(run_viewer, run_viewer.access.home + path[1:], Cookie=f"wsikit-view=of another; {pair}")[0] == 200


def test_each_viewer_has_a_token_of_its_own(run_viewer: Viewer, made: Path) -> None:
    with Viewer(Library(made)) as other:
        assert other.access.token != run_viewer.access.token
        assert len(other.access.token) >= 43, "256 bits"
        cookie = run_viewer.access.cookie.partition(";")[0]
        assert raw(other, other.access.home, Cookie=cookie)[0] == 403


def test_the_whole_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a guess differs, the comparison is the one that takes as long."""
    asked: list[tuple[bytes, bytes]] = []

    def compare(a: bytes, b: bytes) -> bool:
        asked.append((a, b))
        return a == b

    monkeypatch.setattr("hmac.compare_digest", compare)
    access = Access("127.0.0.1", 1, token="secret")
    assert not access.has_token({"Cookie": "wsikit-view=guess"})
    assert not access.opens("/?token=sec")
    assert asked == [(b"guess", b"secret"), (b"sec", b"secret")]


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "no-cors"},
        {"Sec_Fetch_Site": "same-site", "Sec_Fetch_Mode": "cors"},
    ],
)
def test_pages_of_other_origins_are_refused_also_with_the_cookie(run_viewer: Viewer, headers: dict[str, str]) -> None:
    sent = {name: value.format(port=run_viewer.port) for name, value in headers.items()}
    status, body, _ = get(run_viewer, "/slide/disc/tile/0/0_0.jpg", **sent)
    assert (status, b"other origins" in body) == (403, True)


def test_its_own_pages_and_links_to_them_are_answered(run_viewer: Viewer) -> None:
    own = {"Origin": run_viewer.access.origin, "Sec_Fetch_Site": "same-origin", "Sec_Fetch_Mode": "cors"}
    assert get(run_viewer, "/slide/disc/tile/0/0_0.jpg", **own)[0] == 200
    assert get(run_viewer, "/", Sec_Fetch_Site="same-site", Sec_Fetch_Mode="navigate")[0] == 200


@pytest.mark.browser
def test_the_printed_address_opens_the_slide_and_leaves_no_token_in_the_browser(
    made: Path, browser: Any, wait: Any
) -> None:
    with Viewer(Library(made / "slides" / "disc.zarr")) as viewer:
        browser.get(viewer.page("slide/disc/"))
        assert "token" in browser.find_element("css selector", "body").text
        browser.get("about:blank")
        before = browser.execute_script("return history.length")
        browser.get(viewer.url + "#here")
        wait(browser, "return document.getElementById('live')?.dataset.ready === 'true'")
        assert browser.current_url == viewer.page("slide/disc/#here")
        assert browser.execute_script("return history.length") <= before + 1
        assert browser.execute_script("return document.cookie") == "", "scripts cannot read it"


@pytest.mark.browser
def test_a_link_in_a_page_of_another_site_opens_the_slide_too(
    made: Path, browser: Any, tmp_path: Path, wait: Any
) -> None:
    """A strict cookie is not sent there by the click itself."""
    with Viewer(Library(made / "slides" / "disc.zarr")) as viewer:
        page = tmp_path / "page.html"
        page.write_text(f'<a id="go" href="{viewer.url}">slide</a>')
        browser.get(page.as_uri())
        browser.find_element("id", "go").click()
        wait(browser, "return document.getElementById('live')?.dataset.ready === 'true'")


def test_the_command_prints_the_address_with_its_token(made: Path) -> None:
    command = [sys.executable, "-uc", "from wsikit.cli.main import main; main()", "view", str(made)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.terminate()
    assert re.fullmatch(r"1 slide: http://127\.0\.0\.1:\d+/\?token=[\w-]{43}  \(this computer only.*\)\n", line)


def test_the_token_is_not_among_the_arguments_of_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every account can read them. The browser is opened at a file that only its owner can."""
    opened: list[str] = []
    monkeypatch.setattr("click.launch", opened.append)
    with view.opened_privately("http://127.0.0.1:1/?token=secret") as page:
        assert opened == [str(page)]
        assert "secret" not in opened[0]
        assert "0;url=http://127.0.0.1:1/?token=secret" in page.read_text()
        assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
    assert not page.exists()


def test_the_log_has_no_token(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    # the command line sets the level of "wsikit", in the tests before
    with caplog.at_level("DEBUG", "wsikit.view.server"), Viewer(Library(made)) as viewer:
        raw(viewer, f"/?token={viewer.access.token}")
    assert "GET /?token=…" in caplog.text
    assert viewer.access.token not in caplog.text


def test_the_help_states_who_can_connect() -> None:
    assert "other accounts" in " ".join(CliRunner().invoke(view.command, ["--help"]).output.split())
