"""How progress is shown: bars on a terminal, whole lines on standard error in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from wsikit.cli.console import make_console
from wsikit.cli.progress import TerminalProgress


class Clock:
    """A clock that is set by the test."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def in_a_pipe(clock: Clock) -> TerminalProgress:
    return TerminalProgress(Console(file=io.StringIO()), clock=clock)


def test_a_stage_in_a_pipe_writes_a_line_at_its_start_every_30_s_and_at_its_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with in_a_pipe(clock) as progress:
        progress.start("captions", 770, "patches")
        for clock.now in (10, 31, 40, 70):
            progress.advance(192)
        clock.now = 72
        progress.advance(2)
        progress.finish()
    assert capsys.readouterr().err.splitlines() == [
        "captions: started, 770 patches",
        "captions: 384 of 770 patches, 12 patches/s, elapsed 0:31 · left 0:31",
        "captions: 768 of 770 patches, 11 patches/s, elapsed 1:10 · left 0:00",
        "captions: finished, 770 of 770 patches in 1:12, 11 patches/s",
    ]


def test_a_stage_that_breaks_off_is_reported_as_stopped(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with in_a_pipe(clock) as progress:
        progress.start("tiles", 10, "shards")
        progress.advance(3)
        clock.now = 5
        progress.slide_done()
    assert capsys.readouterr().err.splitlines()[-1] == "tiles: stopped, 3 of 10 shards in 0:05, 36.0 shards/min"


def test_slides_at_the_same_time_have_lines_of_their_own(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with in_a_pipe(clock) as progress:
        progress.slides(2)
        first, second = progress.for_slide("a"), progress.for_slide("b")
        first.start("predictions", 2, "patches")
        second.start("tiles", 1, "shards")
        second.advance()
        second.finish()
        first.advance(2)
        first.finish()
        first.finish()
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "a: predictions: started, 2 patches",
        "b: tiles: started",
        "b: tiles: finished in 0:00",
        "a: predictions: finished, 2 of 2 patches in 0:00",
    ]


def test_the_terminal_shows_rate_elapsed_time_and_time_left() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with TerminalProgress(console) as progress:
        progress.slides(2)
        part = progress.for_slide("a")
        part.start("captions", 770, "patches")
        part.advance(10)
        assert progress._bars is not None
        progress._bars.refresh()
        part.finish()
    shown = screen.getvalue()
    assert "a: captions" in shown
    assert "patches/s" in shown
    assert "elapsed 0:00 · left" in shown
    assert "to go" not in shown


def test_lines_in_a_pipe_are_never_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/data/" + "a_very_long_name_of_a_slide_" * 10 + ".svs"
    make_console().print(f"{path}: done")
    assert capsys.readouterr().out.splitlines() == [f"{path}: done"]
