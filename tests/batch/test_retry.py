"""`wsikit retry`, --only-failed, --fail-fast, --log-json; errors of the network are tried again, others are not."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wsikit.batch import attempt
from wsikit.batch.log import read_log
from wsikit.batch.records import DONE, FAILED, read_rows
from wsikit.batch.retry import read_request
from wsikit.batch.run import run
from wsikit.batch.run_result import RunResult
from wsikit.batch.transient import is_transient
from wsikit.cli.main import main
from wsikit.errors import RequestError, StoreError, UnreachableError
from wsikit.tiling.plan import ImageParameters
from wsikit.tissue.parameters import TissueParameters
from wsikit.voting.parameters import VoteParameters

BROKEN = b"II*\0" + b"\1" * 500


@pytest.fixture
def start(model_folder: Path, tmp_path: Path) -> Callable[..., RunResult]:
    def run_it(*slides: Path, **changes: Any) -> RunResult:
        return run(slides, tmp_path / "out", model=model_folder, workers=1, device="cpu", **changes)

    return run_it


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Any, str, str]]:
    def call(*arguments: object) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


def states(out: Path) -> dict[str, str]:
    return {row.slide_id: row.status for row in read_rows(out)}


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_retry_runs_what_failed_with_the_settings_of_the_run_and_touches_nothing_else(
    start: Callable[..., RunResult], slide_path: Path, tmp_path: Path, cli: Callable[..., tuple[Any, str, str]]
) -> None:
    out, late = tmp_path / "out", tmp_path / "late.tiff"
    late.write_bytes(BROKEN)
    settings: dict[str, Any] = {
        "min_tissue": 0.6,
        "vote": VoteParameters("hard", min_patches=3),
        "image": ImageParameters(pixels="none", levels=(0, 1)),
        "tissue": TissueParameters(min_area_mm2=0.01),
        "stain": "macenko",
        "caption_budget": 5,
    }
    start(slide_path, late, **settings)
    before = stamps(out / "slides" / "disc.zarr") | stamps(out / "results" / "disc")
    assert cli("retry", out, "--device", "cpu")[0] == 1, "it fails again"
    shutil.copy(slide_path, late)
    status, said, _ = cli("retry", out, "--device", "cpu")
    assert (status, states(out)) == (0, {"disc": DONE, "late": DONE})
    assert "1 of 1 slides done" in said
    assert "Bound by" in said
    assert stamps(out / "slides" / "disc.zarr") | stamps(out / "results" / "disc") == before
    whole = start(slide_path, late, **settings)
    assert whole.time is None, "the settings were the same: nothing is left to do"
    status, said, _ = cli("retry", out, "--device", "cpu")
    assert status == 0
    assert "no slide failed" in said


def test_retry_refuses_settings_that_it_cannot_restore(
    start: Callable[..., RunResult], slide_path: Path, tmp_path: Path, model_folder: Path
) -> None:
    with pytest.raises(RequestError, match=r"run\.json: there is no such file"):
        read_request(tmp_path)
    broken = tmp_path / "broken.svs"
    broken.write_bytes(BROKEN)
    own_model = shutil.copytree(model_folder, tmp_path / "model")
    run([broken], tmp_path / "out", model=own_model, workers=1, device="cpu")
    assert [entry.slide_id for entry in read_request(tmp_path / "out")[0]] == ["broken"]
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    changed = record | {"model_fingerprint": "another"}
    (tmp_path / "out" / "run.json").write_text(json.dumps(changed))
    with pytest.raises(RequestError, match="model files: another → .*--only-failed"):
        read_request(tmp_path / "out")
    shutil.rmtree(own_model)
    with pytest.raises(RequestError, match="cannot be restored"):
        read_request(tmp_path / "out")
    (tmp_path / "out" / "run.json").write_text(json.dumps({"slides": [{"no": 1}], "configuration": {}}))
    with pytest.raises(RequestError, match="damaged, or of an older version"):
        read_request(tmp_path / "out")


def test_only_failed_leaves_new_slides_alone(start: Callable[..., RunResult], slide_path: Path, tmp_path: Path) -> None:
    late, new = tmp_path / "late.tiff", tmp_path / "new.tiff"
    late.write_bytes(BROKEN)
    start(late)
    shutil.copy(slide_path, late)
    shutil.copy(slide_path, new)
    assert [row.slide_id for row in start(slide_path, late, new, only_failed=True)] == ["late"]
    assert states(tmp_path / "out") == {"late": DONE}
    assert len(json.loads((tmp_path / "out" / "run.json").read_text())["slides"]) == 3


def test_fail_fast_stops_at_the_first_failure_and_the_next_run_goes_on(
    start: Callable[..., RunResult], slide_path: Path, tmp_path: Path
) -> None:
    slides = [tmp_path / "a_broken.svs", *(tmp_path / f"b{number}.tiff" for number in range(3))]
    slides[0].write_bytes(BROKEN)
    for path in slides[1:]:
        shutil.copy(slide_path, path)
    result = start(*slides, fail_fast=True)
    assert [row.status for row in result] == [FAILED]
    assert result.exit_status == 1
    assert set(states(tmp_path / "out").values()) == {FAILED}
    assert not list((tmp_path / "out" / "slides").glob(".*.begun.json"))
    assert [row.status for row in start(*slides)] == [FAILED, DONE, DONE, DONE]


def test_log_json_prints_the_events_of_the_log_and_nothing_else(
    slide_path: Path, tmp_path: Path, model_folder: Path, cli: Callable[..., tuple[Any, str, str]]
) -> None:
    out = tmp_path / "out"
    status, said, errors = cli("run", slide_path, "-o", out, "--model", model_folder, "--device", "cpu", "--log-json")
    assert (status, errors) == (0, "")
    events = [json.loads(line) for line in said.splitlines()]
    assert events == read_log(out)
    assert [event["event"] for event in events][0] == "run"
    last = events[-1]
    assert (last["event"], last["done"], last["slides"]) == ("summary", 1, 1)
    ended = [event for event in events if event["event"] == "end"]
    assert {one["stage"] for one in last["stages"]} == {event["stage"] for event in ended}
    for one in last["stages"]:
        spent = sum(event["seconds"] for event in ended if event["stage"] == one["stage"])
        assert one["seconds"] == pytest.approx(spent, abs=2e-3)
    assert json.loads((out / "run.json").read_text())["time"]["stages"] == last["stages"]
    (row,) = [event for event in events if event["event"] == "slide"]
    assert (row["slide"], row["status"]) == ("disc", DONE)


def named(module: str, name: str, **facts: Any) -> Exception:
    """An error as a library that is not imported here would raise it."""
    kind = type(name, (Exception,), {"__module__": module, **facts})
    return kind(name)


def answered(status: int) -> dict[str, Any]:
    return {"response": {"Error": {}, "ResponseMetadata": {"HTTPStatusCode": status}}}


def wrapped(cause: Exception) -> Exception:
    try:
        raise UnreachableError("s3://bucket: no answer") from cause
    except UnreachableError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        OSError(errno.ESTALE, "stale file handle"),
        OSError(errno.ENETUNREACH, "network is unreachable"),
        named("aiohttp.client_exceptions", "ServerDisconnectedError"),
        named("aiohttp.client_exceptions", "ClientResponseError", status=503),
        named("botocore.exceptions", "ClientError", **answered(429)),
        named("botocore.exceptions", "ClientError", response={"Error": {"Code": "SlowDown"}}),
        named("botocore.exceptions", "EndpointConnectionError"),
        named("requests.exceptions", "ReadTimeout"),
        named("httpx", "ConnectError"),
        named("openai", "RateLimitError", status_code=429),
        wrapped(named("botocore.exceptions", "ConnectTimeoutError")),
    ],
    ids=lambda error: f"{type(error).__name__}-{error.args}",
)
def test_errors_of_the_network_are_transient(error: Exception) -> None:
    assert is_transient(error)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("a.svs"),
        PermissionError("a.svs"),
        OSError(errno.ENOSPC, "no space left on device"),
        OSError(errno.EIO, "input/output error"),
        ValueError("Timeout"),
        MemoryError(),
        StoreError("cut off"),
        named("botocore.exceptions", "ClientError", **answered(403)),
        named("botocore.exceptions", "NoCredentialsError"),
        named("aiohttp.client_exceptions", "ClientResponseError", status=404),
        wrapped(named("botocore.exceptions", "ClientError", **answered(404))),
    ],
    ids=lambda error: f"{type(error).__name__}-{error.args}",
)
def test_other_errors_are_not(error: Exception) -> None:
    assert not is_transient(error)


@pytest.mark.parametrize(
    ("error", "times", "tries", "status"),
    [
        (ConnectionResetError("reset"), 2, 3, DONE),
        (ConnectionResetError("reset"), 9, 4, FAILED),
        (OSError(5, ""), 9, 1, FAILED),
    ],
)
def test_a_slide_is_tried_again_after_an_error_of_the_network_some_times(
    start: Callable[..., RunResult],
    slide_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    times: int,
    tries: int,
    status: str,
) -> None:
    monkeypatch.setattr(attempt, "RETRY_AFTER_S", (0.0, 0.0, 0.0))
    tried: list[int] = []
    real = attempt.SlideWork

    def unreliable(*arguments: Any) -> Any:
        tried.append(1)
        if len(tried) <= times:
            raise error
        return real(*arguments)

    monkeypatch.setattr(attempt, "SlideWork", unreliable)
    assert [row.status for row in start(slide_path)] == [status]
    assert len(tried) == tries
    assert sum(event["event"] == "retry" for event in read_log(tmp_path / "out")) == tries - 1
