"""One slide on several workers of a cluster: its shards and rows in blocks, by whoever has time, or holds a GPU.

The worker that has the slide keeps its lock and cuts the work. Results of measuring are small columns that go back to
it; those of a model are written to the store by the workers that compute them, whole chunks of rows each. While it
waits it counts as idle, and holds no resource of its process, so that blocks never wait for slides (decision 25).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from wsikit import clusters
from wsikit.batch.cluster_request import ClusterRequest, Held, held_request
from wsikit.batch.entry import SlideEntry
from wsikit.batch.job import Resources, Stopped
from wsikit.errors import StoreError, WsikitError
from wsikit.executor import Executor
from wsikit.progress import SILENT, Progress

if TYPE_CHECKING:
    from wsikit.batch.slide_work import SlideWork
    from wsikit.batch.stages import Stage, Where
    from wsikit.slides.store import SlideStore
    from wsikit.store.table import PatchTable
    from wsikit.tiling.columns import ColumnStage

_BLOCKS_PER_WORKER, _MOST_CHUNKS = 4, 16
"""So many blocks per thread of workers, of at most so many chunks of rows."""

_PRIORITY = 10
"""Blocks go before slides that have not begun."""


class TaskResources(Resources):
    """The resources of a worker process, as one slide takes them: it gives back what it holds while it waits."""

    def __init__(self, of_process: Resources) -> None:
        super().__init__(of_process.ahead)
        self.stopping, self._on_stop, self._lock = of_process.stopping, of_process._on_stop, of_process._lock
        self._locks = of_process._locks
        self._taken: threading.Lock | None = None

    def take(self, where: Where) -> threading.Lock:
        self._taken = super().take(where)
        return self._taken

    @contextlib.contextmanager
    def given_back(self) -> Iterator[None]:
        """The resource is free for other slides and blocks of this process within the context."""
        assert self._taken is not None
        self._taken.release()
        try:
            yield
        finally:
            self._taken.acquire()  # those that hold it wait for no other task


@dataclass(frozen=True)
class _SharingExecutor(Executor):
    """All workers of the cluster, for a slide that gives its resource back while it waits for them."""

    resources: TaskResources = field(kw_only=True)

    def _carry_out(self, function: Any, tasks: Any, on_result: Any) -> None:
        with self.resources.given_back():
            super()._carry_out(function, tasks, on_result)


class Spread:
    """What a slide on a worker gives to other workers. `cut`: its shards and rows, if it has enough patches."""

    def __init__(self, digest: str, request: ClusterRequest, resources: TaskResources, *, cut: bool) -> None:
        self._digest, self._request, self._resources, self._cut = digest, request, resources, cut
        self._executor = _SharingExecutor(request.scheduler, resources=resources)
        self.fatal: BaseException | None = None
        """What another worker raised when it loaded the model: no slide can be done."""

    def executor(self, work: SlideWork) -> Executor:
        """All workers for a slide that is cut, else this one."""
        return self._executor if self._is_giant(work) else work.shared.executor

    def over_workers(self, stage: Stage, columns: ColumnStage, work: SlideWork) -> ColumnStage:
        """The same columns of a device, computed in blocks by all workers, or by those with a GPU; else as they are."""
        from wsikit.tiling.columns import DeviceWork

        if not isinstance(columns.work, DeviceWork):
            return columns
        cut = columns.work.parts is not None and self._is_giant(work)
        if not cut and not self._request.gpus:
            return columns

        def run(store: SlideStore, table: PatchTable, progress: Progress) -> None:
            task = BlockTask(self._digest, work.entry, stage.name, columns.receipt.digest, "whole")
            if cut:
                self._in_blocks(task, table, columns.name, progress)
            else:
                progress.start(columns.name, len(table), "patches")
                self._ask([task], lambda _: progress.advance(len(table)))
                progress.finish()

        return replace(columns, work=DeviceWork(run))

    def _in_blocks(self, task: BlockTask, table: PatchTable, name: str, progress: Progress) -> None:
        (missing,) = self._ask([replace(task, step="begin")])
        threads = 1
        with clusters.connected(self._request.scheduler, 1) as client:
            threads = max(1, sum(client.nthreads().values()))
        at_once = min(_MOST_CHUNKS, -(-len(missing) // (_BLOCKS_PER_WORKER * threads))) or 1
        blocks = [
            replace(task, step="rows", rows=tuple(missing[first : first + at_once]))
            for first in range(0, len(missing), at_once)
        ]
        progress.start(name, sum(last - first for first, last in missing), "patches")
        self._ask(blocks, lambda index: progress.advance(blocks[index].n_rows))
        progress.finish()
        self._ask([replace(task, step="end")])

    def _ask(self, tasks: Sequence[BlockTask], on_done: Callable[[int], None] | None = None) -> list[Any]:
        """Results of blocks of one stage and step, in their order."""
        if not tasks:
            return []
        found: dict[int, Any] = {}

        def keep(index: int, result: Any) -> None:
            if isinstance(result, _CannotLoad):
                self.fatal = result.error
                raise result.error
            if result is None:
                raise Stopped
            found[index] = result
            if on_done is not None:
                on_done(index)

        # a name for each kind of block: Dask learns how long those of one name take, and takes none from a busy worker
        # that it believes to be short
        options: dict[str, Any] = {"priority": _PRIORITY, "key": f"wsikit-{tasks[0].stage}-{tasks[0].step}"}
        if self._request.gpus:
            options["resources"] = {clusters.GPU: 1}
        scheduler = self._request.scheduler
        with self._resources.given_back(), clusters.connected(scheduler, 1) as client:
            clusters.carry_out(client, scheduler, carry_out_block, tasks, keep, **options)
        return [found[index] for index in range(len(tasks))]

    def _is_giant(self, work: SlideWork) -> bool:
        from wsikit.batch.stages import likely_patches

        return self._cut and likely_patches(work) >= self._request.blocks_from


@dataclass(frozen=True)
class BlockTask:
    """A part of one stage of a slide."""

    digest: str
    """Of the request of the run."""
    entry: SlideEntry
    stage: str
    receipt: str
    """Digest of the receipt of the columns."""
    step: Literal["begin", "rows", "end", "whole"]
    """begin: prepare the columns; rows: compute some; end: what depends on all rows; whole: all of it."""
    rows: tuple[tuple[int, int], ...] = ()
    """Chunks of rows, each as its first row and the one after its last."""

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return sum(last - first for first, last in self.rows)

    def __str__(self) -> str:
        return f"{self.entry.path}: {self.stage}"


@dataclass(frozen=True)
class _CannotLoad:
    error: BaseException


def carry_out_block(task: BlockTask) -> Any:
    """Carry out a block, in a worker process that holds the model; None if the run was stopped.

    Returns
    -------
    list of tuple, True or _CannotLoad
        Of "begin" the chunks of rows that are to be computed.

    Raises
    ------
    StoreError
        The store has changed since the block was cut.
    """
    held = held_request(task.digest)
    if held is None or held.resources.stopping.is_set():
        return None
    try:
        return _carry_out(task, held)
    except Stopped:
        return None
    except WsikitError as error:
        shared = held.shared.made
        if error is held.shared.error or (shared is not None and shared.is_fatal(error)):
            return _CannotLoad(error)
        raise


def _carry_out(task: BlockTask, held: Held) -> Any:
    from wsikit.batch.slide_work import SlideWork
    from wsikit.batch.stages import TableStage, stages_of
    from wsikit.tiling.columns import DeviceWork

    work = SlideWork(task.entry, task.entry.open(), held.shared_for(task.entry))
    taken = held.resources.take("device")
    try:
        stage = next(stage for stage in stages_of(work.shared) if stage.name == task.stage)
        assert isinstance(stage, TableStage)
        columns = stage.columns(work)
        if columns.receipt.digest != task.receipt:
            raise StoreError(f"{work.folder}: the inputs of {task.stage} have changed meanwhile. Run again.")
        device, store, table = columns.work, work.store, work.table
        assert isinstance(device, DeviceWork)
        if task.step == "whole":
            device.run(store, table, SILENT)
            return True
        assert device.parts is not None
        if task.step == "begin":
            return [(rows.start, rows.stop) for rows in device.parts.begin(store, table)]
        if task.step == "rows":
            device.parts.rows(store, table, [slice(*rows) for rows in task.rows])
        else:
            device.parts.end(store, table)
        return True
    finally:
        taken.release()
        work.close()
