"""A run on a real cluster on this machine: whole slides on workers, with the results of threads, whatever dies."""

from __future__ import annotations

import contextlib
import csv
import importlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wsikit import clusters
from wsikit.batch import cluster
from wsikit.batch.log import read_log
from wsikit.batch.records import DONE, FAILED, SlideRow, read_rows
from wsikit.batch.run import run
from wsikit.errors import ModelError, RequestError, UnreachableError

TOYS = Path(__file__).parent


@pytest.fixture(autouse=True)
def one_thread_of_torch() -> Iterator[None]:
    """As in a worker, where Dask asks libraries for one thread: sums of several threads differ in their last bits."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class RealCluster:
    """Starts and ends the processes of a cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        """Into which the encoder of these tests writes where it ran."""
        self.notes.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.processes: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start_scheduler()

    def start_scheduler(self) -> subprocess.Popen[bytes]:
        """At the same address as an earlier one."""
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard", "--no-show"]
        self.scheduler = self._start("scheduler", options)
        return self.scheduler

    def start_worker(self, *options: str) -> subprocess.Popen[bytes]:
        """With a nanny, which starts the worker process again when it was killed."""
        common = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder)]
        return self._start("worker", [self.address, *common, *options])

    def wait_for_workers(self, number: int) -> None:
        """Wait until so many workers are there."""
        import distributed

        client: Any = distributed.Client(self.address, set_as_default=False, timeout=60)
        client.wait_for_workers(number, timeout=120)
        client.close()

    def _start(self, what: str, options: list[str]) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "NOTES": str(self.notes), "WORKER": f"{len(self.processes)}"}
        with open(self.folder / f"{what}{len(self.processes)}.log", "wb") as log:
            command = [sys.executable, "-m", f"distributed.cli.dask_{what}", *options]
            # a group of its own: the nanny's worker process ends with it
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, env=environment)
        self.processes.append(process)
        return process

    def close(self) -> None:
        """End all processes."""
        for process in reversed(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The reader is installed here and in processes that are started."""
    site = tmp_path_factory.mktemp("site")
    info = site / "cluster-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cluster\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[wsikit.readers]\ncluster = cluster_reader:ClusterSlide\n")
    with pytest.MonkeyPatch.context() as patch:
        for folder in (site, TOYS):
            patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", ":".join([str(site), str(TOYS), *filter(None, sys.path)]))
        yield


@pytest.fixture(scope="module")
def shared_cluster(installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealCluster]:
    """A scheduler and two workers, for tests that leave them as they were."""
    found = RealCluster(tmp_path_factory.mktemp("cluster"))
    for _ in range(2):
        found.start_worker()
    found.wait_for_workers(2)
    yield found
    found.close()


@pytest.fixture
def one_cluster(installed: None, tmp_path: Path) -> Iterator[RealCluster]:
    """A scheduler, to which a test adds workers."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    found = RealCluster(folder)
    yield found
    found.close()


def notes(together: int = 0) -> Any:
    """The encoder of `cluster_encoder`, as a module that workers can import too."""
    return importlib.import_module("cluster_encoder").Notes(together=together)


def wait_for(path: Path) -> None:
    """Wait until a file is there; given up after two minutes, which no machine needs."""
    for _ in range(1200):
        if path.exists():
            return
        threading.Event().wait(0.1)
    raise TimeoutError(path)


def slide(folder: Path, name: str, what: str = "plain") -> Path:
    path = folder / f"{name}.svs"
    path.write_text(f"CLUSTER {what} {folder / name}.flag\n")
    return path


def contents(out: Path) -> dict[str, bytes]:
    """All files of the stores, and the maps and regions of the results: what does not state a time."""
    stores = [path for path in (out / "slides").glob("*.zarr/**/*") if path.is_file()]
    results = [path for name in ("map.png", "subtype.geojson") for path in (out / "results").glob(f"*/{name}")]
    return {str(path.relative_to(out)): path.read_bytes() for path in (*stores, *results)}


def table(out: Path) -> list[dict[str, str]]:
    with open(out / "slides.csv", newline="") as file:
        return [{**row, "seconds": ""} for row in csv.DictReader(file)]


def states(out: Path) -> dict[str, str]:
    return {row.slide_id: row.status for row in read_rows(out)}


def assert_equal(out: Path, other: Path) -> None:
    found, expected = contents(out), contents(other)
    assert sorted(found) == sorted(expected)
    assert [name for name in found if found[name] != expected[name]] == []
    assert table(out) == table(other)


def test_slides_on_two_workers_have_the_results_of_threads_and_the_driver_hears_of_them(
    shared_cluster: RealCluster, slide_path: Path, tmp_path: Path, model_folder: Path
) -> None:
    slides: list[Any] = [slide_path, slide(tmp_path, "a"), slide(tmp_path, "b")]
    settings: dict[str, Any] = {"model": model_folder, "device": "cpu"}
    begun: list[str] = []
    ended: list[SlideRow] = []
    result = run(
        slides,
        tmp_path / "cluster",
        scheduler=shared_cluster.address,
        on_start=lambda entry: begun.append(entry.slide_id),
        on_slide=ended.append,
        **settings,
    )
    run(slides, tmp_path / "threads", workers=1, **settings)
    assert_equal(tmp_path / "cluster", tmp_path / "threads")
    names = [slide_path.stem, "a", "b"]
    assert [row.slide_id for row in result] == names
    assert sorted(begun) == sorted(names)
    assert sorted(row.slide_id for row in ended) == sorted(names)
    assert (tmp_path / "cluster" / "index.html").is_file()
    stages = {(event.get("slide"), event["stage"]) for event in read_log(result.out) if event["event"] == "end"}
    assert {(name, "predictions") for name in names} <= stages
    assert not list((tmp_path / "cluster").glob("*.partial"))
    again = run(slides, tmp_path / "cluster", scheduler="tcp://127.0.0.1:9", **settings)
    assert again.exit_status == 0, "slides that are finished need no cluster"


def test_one_slide_in_blocks_of_two_workers_has_the_results_of_threads(
    shared_cluster: RealCluster, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "BLOCKS_FROM", 1)
    monkeypatch.setattr(cluster, "FAIR_SHARES", 0.5)
    settings: dict[str, Any] = {
        "model": model_folder,
        "device": "cpu",
        "features": [notes(together=2)],
        "overlap_px": 48,
    }
    slides = [slide(tmp_path, name) for name in "ab"]  # both workers have a slide, and wait for blocks
    run(slides, tmp_path / "blocks", scheduler=shared_cluster.address, **settings)
    assert len(list(shared_cluster.notes.iterdir())) == 2, "one slide's features were computed by both workers"
    run(slides, tmp_path / "threads", workers=1, **settings)
    assert_equal(tmp_path / "blocks", tmp_path / "threads")


@pytest.mark.slow
def test_work_on_a_device_goes_to_the_worker_that_declares_a_gpu(
    one_cluster: RealCluster, tmp_path: Path, model_folder: Path
) -> None:
    one_cluster.start_worker("--resources", "GPU=1")
    one_cluster.start_worker()
    one_cluster.wait_for_workers(2)
    settings: dict[str, Any] = {"model": model_folder, "device": "cpu", "features": [notes()]}
    slides = [slide(tmp_path, name) for name in "abcd"]
    result = run(slides, tmp_path / "out", scheduler=one_cluster.address, **settings)
    assert result.exit_status == 0
    used = {path.name for path in one_cluster.notes.iterdir()}
    assert used == {"1"}, "the encoder ran on the worker with the GPU only"
    run(slides, tmp_path / "threads", workers=1, **settings)
    assert_equal(tmp_path / "out", tmp_path / "threads")


def test_a_model_that_cannot_be_loaded_on_a_worker_ends_the_run(
    shared_cluster: RealCluster, tmp_path: Path, model_folder: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    broken = Path(shutil.copytree(model_folder, tmp_path / "broken"))
    (weights,) = broken.glob("*.safetensors")
    tensors = load_file(weights)
    lost = next(name for name in tensors if name.endswith("weight"))
    save_file({name: values for name, values in tensors.items() if name != lost}, weights)
    with pytest.raises(ModelError, match=str(broken)):
        run(slide(tmp_path, "a"), tmp_path / "out", scheduler=shared_cluster.address, model=broken, device="cpu")


def test_workers_that_do_not_see_the_output_folder_are_refused(
    shared_cluster: RealCluster, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the file that they are asked for is not written
    monkeypatch.setattr(Path, "touch", lambda path: None)
    with pytest.raises(RequestError, match="2 of 2 workers .* do not see this folder"):
        run(slide(tmp_path, "a"), tmp_path / "out", scheduler=shared_cluster.address, model=model_folder, device="cpu")


def test_no_scheduler_at_the_address_is_one_error(
    tmp_path: Path, installed: None, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "_CONNECT_S", 0.5)
    with pytest.raises(UnreachableError, match="no answer"):
        run(slide(tmp_path, "a"), tmp_path / "out", scheduler="tcp://127.0.0.1:9", model=model_folder, device="cpu")


@pytest.mark.slow
def test_the_slide_of_a_worker_that_was_killed_is_done_by_another(
    one_cluster: RealCluster, tmp_path: Path, model_folder: Path
) -> None:
    one_cluster.start_worker()
    one_cluster.start_worker()
    one_cluster.wait_for_workers(2)
    slides = [slide(tmp_path, "a", "waits"), *(slide(tmp_path, name) for name in "bcd")]

    def kill() -> None:
        wait_for(tmp_path / "a.begun")
        (tmp_path / "a.flag").touch()
        os.kill(int((tmp_path / "a.begun").read_text()), signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    settings: dict[str, Any] = {"model": model_folder, "device": "cpu"}
    result = run(slides, tmp_path / "out", scheduler=one_cluster.address, **settings)
    killer.join()
    assert result.exit_status == 0
    run(slides, tmp_path / "threads", workers=1, **settings)
    assert_equal(tmp_path / "out", tmp_path / "threads")
    assert not list((tmp_path / "out" / "slides").glob(".*.begun.json"))


@pytest.mark.slow
@pytest.mark.parametrize("what", ["kills_once", "eats_once"])
def test_a_slide_that_ended_its_worker_is_tried_again(
    what: str, one_cluster: RealCluster, tmp_path: Path, model_folder: Path
) -> None:
    one_cluster.start_worker("--memory-limit", "1200MiB")
    one_cluster.wait_for_workers(1)
    slides = [slide(tmp_path, "a", what), slide(tmp_path, "b")]
    result = run(slides, tmp_path / "out", scheduler=one_cluster.address, model=model_folder, device="cpu")
    assert [row.status for row in result] == [DONE, DONE], result
    assert (tmp_path / "a.flag").exists(), "the worker was ended once"
    run(slides, tmp_path / "threads", workers=1, model=model_folder, device="cpu")
    assert_equal(tmp_path / "out", tmp_path / "threads")


@pytest.mark.slow
def test_a_slide_that_ends_every_worker_is_one_failed_row(
    one_cluster: RealCluster, tmp_path: Path, model_folder: Path
) -> None:
    one_cluster.start_worker()
    one_cluster.start_worker()
    one_cluster.wait_for_workers(2)
    slides = [slide(tmp_path, "a", "kills_workers"), *(slide(tmp_path, name) for name in "bc")]
    result = run(slides, tmp_path / "out", scheduler=one_cluster.address, model=model_folder, device="cpu")
    assert {row.slide_id: row.status for row in result} == {"a": FAILED, "b": DONE, "c": DONE}
    assert states(tmp_path / "out") == {"a": FAILED, "b": DONE, "c": DONE}
    assert "workers died while they worked on it" in (result["a"].error or "")
    assert str(slides[0]) in (result["a"].error or "")


@pytest.mark.slow
def test_a_scheduler_that_is_gone_is_said_once_and_the_same_command_goes_on(
    one_cluster: RealCluster, tmp_path: Path, model_folder: Path
) -> None:
    worker = one_cluster.start_worker()
    one_cluster.wait_for_workers(1)
    slides = [slide(tmp_path, "b", "waits"), *(slide(tmp_path, name) for name in "ac")]
    out = tmp_path / "out"
    code = "import sys; from wsikit.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "run", *map(str, slides), "-o", str(out), "--model", str(model_folder)]
    command += ["--device", "cpu", "--scheduler", one_cluster.address]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(tmp_path / "b.begun")
    os.killpg(one_cluster.scheduler.pid, signal.SIGKILL)
    one_cluster.scheduler.wait()
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 1
    assert [line for line in errors.splitlines() if line.strip()][-1].startswith(
        f"wsikit: scheduler {one_cluster.address}"
    )
    assert len(errors.strip().splitlines()) == 1, errors
    assert "run the same command again" in errors
    (tmp_path / "b.flag").touch()
    os.killpg(worker.pid, signal.SIGKILL)
    one_cluster.start_scheduler()
    one_cluster.start_worker()
    one_cluster.wait_for_workers(1)
    ended = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert ended.returncode == 0, ended.stderr
    run(slides, tmp_path / "threads", workers=1, model=model_folder, device="cpu")
    assert_equal(out, tmp_path / "threads")
