"""Carries out a run on a Dask cluster: one slide is one task, several slides at the same time.

The driver sends as many tasks as workers have threads, and receives rows. It alone writes slides.csv,
index.html and log.jsonl. See decision 25 and docs/cluster.md.
"""

from __future__ import annotations

import contextlib
import os
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from wsikit import clusters
from wsikit.batch import cluster_request, records
from wsikit.batch.attempt import Later
from wsikit.batch.begun import Begun, lock_of, read_begun, remove_left_partials
from wsikit.batch.cluster_request import ClusterRequest, pack_request
from wsikit.batch.cluster_slide import Outcome, SlideTask, carry_out_slide, topic_of
from wsikit.batch.entry import SlideEntry
from wsikit.batch.job import Job, call_listener
from wsikit.batch.records import FAILED, SlideRow
from wsikit.batch.reporter import Reporter
from wsikit.errors import RequestError
from wsikit.executor import Executor, available_cpus
from wsikit.progress import Progress

BLOCKS_FROM = 5_000
"""Patches, ten chunks of rows, below which a slide is never cut into blocks for all workers."""

FAIR_SHARES = 0.5
"""A slide is cut if its file is larger than so many equal shares, one per thread, of all files: it could make the run
longer. So of many slides few are cut, and of fewer slides than threads all are."""

_THREADS_EVERY_S = 5.0
"""How often the number of threads is asked for: workers may come and go."""

_LOOK_AGAIN_S = 2.0
"""After which a slide that another run has in work is tried again."""


def carry_out_on_cluster(job: Job, *, executor: Executor, settings: Mapping[str, Any]) -> list[SlideRow | None]:
    """As `wsikit.batch.scheduler.carry_out_slides`, on the workers of a cluster.

    Parameters
    ----------
    settings
        Arguments of `wsikit.batch.prepare.prepare`; they are sent to each worker once.

    Raises
    ------
    RequestError
        The cluster has no workers, or they have another wsikit, or do not see the output folder.
    UnreachableError
        No scheduler answers, or it is gone.
    WsikitError
        The model, the captioner or an encoder cannot be loaded on a worker: no slide can be done.
    """
    remove_left_partials(job.shared.out)
    reporter = Reporter(job)
    workers = executor.workers or available_cpus()
    try:
        with (
            clusters.connected(executor.scheduler, min(workers, len(job.entries)), executor.gpus) as client,
            _request_held(client, job, executor, settings) as (digest, gpus),
        ):
            return _Driver(job, client, executor.scheduler, digest, reporter, gpus=gpus).carry_out()
    finally:
        reporter.write()


@contextlib.contextmanager
def _request_held(client: Any, job: Job, executor: Executor, settings: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The digest of the request, which all workers hold within the context, and whether workers declare GPUs."""
    from wsikit.batch.cluster_plugin import RequestPlugin

    out = os.path.abspath(job.shared.out)
    _check_folder(client, out, executor.scheduler)
    sent = {name: value for name, value in settings.items() if name != "executor"}
    gpus = any(clusters.GPU in worker["resources"] for worker in client.scheduler_info(-1)["workers"].values())
    request = ClusterRequest(out, os.getcwd(), sent, client.scheduler.address, BLOCKS_FROM, gpus)
    digest, payload = pack_request(request)
    name = f"wsikit-{digest[:16]}-{uuid.uuid4().hex[:8]}"  # two drivers may send the same request
    client.register_plugin(RequestPlugin(name, digest, payload), name=name)
    try:
        yield digest, gpus
    finally:
        clusters.ask(client, client.unregister_worker_plugin, name)


def _check_folder(client: Any, out: str, scheduler: str) -> None:
    """RequestError if workers do not see the output folder: they would write somewhere else."""
    mark = Path(out, f".{uuid.uuid4().hex}.cluster.partial")
    mark.touch()
    try:
        found = client.run(cluster_request.sees, out, mark.name)
    finally:
        mark.unlink(missing_ok=True)
    blind = sorted(address for address, sees in found.items() if not sees)
    if blind:
        raise RequestError(
            f"{out}: {len(blind)} of {len(found)} workers of {scheduler} ({blind[0]}) do not see this folder, or may "
            "not write there. Give a folder of a file system that all of them share with -o."
        )


class _Driver:
    """Sends the slides to the workers and takes their rows."""

    def __init__(
        self, job: Job, client: Any, scheduler: str, digest: str, reporter: Reporter, *, gpus: bool = False
    ) -> None:
        self.gpus = gpus
        self.job, self.client, self.scheduler, self.digest, self.reporter = job, client, scheduler, digest, reporter
        self.waiting = deque(sorted(range(len(job.entries)), key=lambda index: -_bytes_of(job.entries[index])))
        """Largest first, so that the last ones to end are small."""
        self.bytes = sum(_bytes_of(entry) for entry in job.entries)
        self.running: dict[str, tuple[int, Any]] = {}
        self.is_cut: dict[str, bool] = {}
        self.n_cut = 0
        self.ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.later: list[tuple[float, int]] = []
        self.rows: dict[int, SlideRow] = {}
        self.stopping = self.said = False
        self.slots = _Slots(client)
        self.shown = _Shown(job)

    def carry_out(self) -> list[SlideRow | None]:
        """Carry out all slides; their rows, in the order of the entries."""
        self.client.subscribe_topic(topic_of(self.digest), self.shown.hear)
        try:
            while self.running or ((self.waiting or self.later) and not self.stopping):
                self._send()
                try:
                    key = self.ended.get(timeout=0.2)
                except queue.Empty:
                    self._check_there()
                    continue
                self.n_cut -= self.is_cut.pop(key)
                self._take(*self.running.pop(key))
        except BaseException as error:
            if not isinstance(error, Exception):
                self.job.note("stopping: slides in work end at their next step; what is complete is kept")
            self._stop()
            self._wait_for_the_end()
            raise
        return [self.rows.get(index) for index in range(len(self.job.entries))]

    def _send(self) -> None:
        now = time.monotonic()
        while self.later and self.later[0][0] <= now:
            self.waiting.append(self.later.pop(0)[1])
        while self.waiting and not self.stopping and len(self.running) < self._most_tasks():
            index = self.waiting.popleft()
            entry = self.job.entries[index]
            cut = _bytes_of(entry) * self.slots.threads() > FAIR_SHARES * self.bytes
            task = SlideTask(self.digest, entry, self.job.requests.get(entry.slide_id), cut)
            # the number of the slide is in the key: a slide that is tried again is another task
            key = f"wsikit-slide-{uuid.uuid4().hex}"
            future = self.client.submit(carry_out_slide, task, key=key, pure=False)
            self.running[key] = (index, future)
            self.n_cut += cut
            self.is_cut[key] = cut
            future.add_done_callback(lambda done: self.ended.put(done.key))

    def _most_tasks(self) -> int:
        """One per thread, so that no slide waits behind another while a worker is idle; those that wait for blocks, or
        for a GPU, take no thread."""
        return (2 if self.gpus else 1) * self.slots.threads() + self.n_cut

    def _take(self, index: int, future: Any) -> None:
        entry = self.job.entries[index]
        self.shown.end(entry)
        if future.status == "error" and _is_killed_worker(future.exception()):
            self._keep(index, _died(entry, self.job, future.exception()))
            return
        clusters.check_future(future, self.scheduler, entry.path)
        outcome: Outcome = future.result()
        for age, event, values in outcome.events:
            self.job.log.write(event, ago_s=age, **values)
        if isinstance(outcome.found, Later):
            self._again(index)
        elif outcome.found is not None:
            self._keep(index, outcome.found)

    def _keep(self, index: int, row: SlideRow) -> None:
        self.rows[index] = row
        self.reporter.report(row)
        if self.job.fail_fast and row.status == FAILED:
            self._stop()

    def _again(self, index: int) -> None:
        """Another run has the slide in work, or a worker that the scheduler has lost."""
        if not self.said:
            self.said = True
            slide_id = self.job.entries[index].slide_id
            self.job.note(f"waiting for slides that another run, or a lost worker, has in work ({slide_id} …)")
        self.later.append((time.monotonic() + _LOOK_AGAIN_S, index))

    def _check_there(self) -> None:
        if self.client.status not in ("running", "connecting"):
            raise clusters.gone(self.scheduler)

    def _stop(self) -> None:
        self.stopping = True
        clusters.ask(self.client, self.client.run, cluster_request.stop, self.digest, on_error="ignore")

    def _wait_for_the_end(self) -> None:
        """Wait until the slides in work have ended: they write files."""
        while self.running and self.client.status == "running":
            with contextlib.suppress(queue.Empty):
                self.running.pop(self.ended.get(timeout=0.2), None)


class _Slots:
    """How many slides workers can have in work at the same time."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._asked = 0.0
        self._threads = 1

    def threads(self) -> int:
        """Threads of all workers, as of some seconds ago."""
        if time.monotonic() - self._asked > _THREADS_EVERY_S:
            with contextlib.suppress(Exception):  # the scheduler may be gone: the next result says so
                self._threads = max(1, sum(self._client.nthreads().values()))
            self._asked = time.monotonic()
        return self._threads


class _Shown:
    """Passes the progress of the slides on to the listeners of the run."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._entries = {entry.slide_id: entry for entry in job.entries}
        self._of_slide: dict[str, Progress] = {}
        self._begun: set[str] = set()

    def hear(self, event: tuple[float, Any]) -> None:
        """Take one event of the cluster."""
        with contextlib.suppress(Exception):  # what is shown must not stop what is done
            slide_id, what, *values = event[1]
            if what == "begin":
                self.begin(self._entries[slide_id])
                return
            progress = self._of_slide.get(slide_id) or self._job.progress.for_slide(slide_id)
            self._of_slide[slide_id] = progress
            steps: dict[str, Callable[..., None]] = {
                "start": progress.start,
                "advance": progress.advance,
                "finish": progress.finish,
            }
            steps[what](*values)

    def begin(self, entry: SlideEntry) -> None:
        """A slide has begun; `on_start` is called once."""
        if entry.slide_id not in self._begun:
            self._begun.add(entry.slide_id)
            if self._job.on_start:
                call_listener("on_start", self._job.on_start, entry)

    def end(self, entry: SlideEntry) -> None:
        """A slide has ended."""
        self.begin(entry)
        progress = self._of_slide.pop(entry.slide_id, None)
        if progress is not None:
            progress.finish()


def _is_killed_worker(error: BaseException) -> bool:
    import distributed

    untyped: Any = distributed
    return isinstance(error, untyped.KilledWorker)


def _died(entry: SlideEntry, job: Job, error: Any) -> SlideRow:
    """The row of a slide whose workers died, each time that it was tried."""
    out = job.shared.out
    stage = (read_begun(out, entry.slide_id) or Begun("unknown")).stage
    text = (
        f"{entry.path}: {error.allowed_failures + 1} workers died while they worked on it, the last in the stage "
        f"{stage} ({error.last_worker.address}). Copy the file again from its source, try another reader (column "
        "reader of a manifest), or give the workers more memory."
    )
    row = SlideRow(entry.slide_id, entry.path, FAILED, label=entry.label, error=text)
    with contextlib.suppress(Exception), lock_of(out, entry.slide_id):  # another run may have it in work by now
        records.write_row(out, row)
    return row


def _bytes_of(entry: SlideEntry) -> int:
    try:
        return os.path.getsize(entry.path)
    except OSError:
        return 0
