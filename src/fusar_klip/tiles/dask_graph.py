"""The Dask graph of a build, run by threads of this process or by the workers of a cluster.

The graph of a scene: all strips -> `fit` -> each large tile -> `finish`. Tasks pass small values to each
other and write pixels and records to the data set's `.build` folder, each file complete or absent; a task
whose result exists does nothing. So the result does not depend on which worker runs a task, how often or in
which order, and an interrupted build resumes from these files. The workers of a cluster need the scenes and
the data set under the same paths as the client: a shared file system.

Locally, threads are used: decoding, mapping, compressing and writing release Python's lock, and another
process would cost its imports (seconds, and 300 MiB).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import rasterio
from dask.base import compute, tokenize
from dask.callbacks import Callback
from dask.delayed import Delayed, delayed

from fusar_klip.errors import DatasetError, SceneError
from fusar_klip.progress import progress_bar
from fusar_klip.tiles.catalog_rows import finish_scene
from fusar_klip.tiles.grid import GridTile
from fusar_klip.tiles.plan import ScenePlan
from fusar_klip.tiles.scene_statistics import SceneStatistics, fit, measure_strip
from fusar_klip.tiles.tile_writer import write_large_tile

if TYPE_CHECKING:
    from distributed import Client
    from rich.progress import Progress, TaskID

_TASKS_PER_WORKER = 32
_BATCH_PIXELS = 1 << 32
"""Scenes that are built together: enough to keep all workers busy, but no more scratch than for 4 Gpx."""
_GDAL_CACHE_BYTES = 128 << 20
"""GDAL's cache of blocks, by default a twentieth of the machine's memory: a strip of blocks per worker."""


@dataclass(frozen=True)
class SceneOutcome:
    """The result of a scene: the processor seconds of its stages, or the reason why it failed."""

    seconds: dict[str, float]
    failure: str | None = None


class BuildRunner:
    """Runs batches of scenes; a context manager that holds the workers."""

    def __init__(self, workers: int, scheduler: str | None = None) -> None:
        """Use `workers` threads here, or all workers of the cluster whose scheduler is at `scheduler`."""
        self._workers = workers
        self._scheduler = scheduler
        self._client: Client | None = None

    def __enter__(self) -> "BuildRunner":
        """Connect to the cluster, if there is one to be used.

        Raises:
            DatasetError: There is no scheduler at the address.
        """
        if self._scheduler is not None:
            self._client = _connect(self._scheduler)
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def batches(self, plans: Iterable[ScenePlan]) -> Iterator[list[ScenePlan]]:
        """Group scenes into batches that keep all workers busy within bounded scratch."""
        tasks = _TASKS_PER_WORKER * self._threads()
        batch: list[ScenePlan] = []
        for plan in plans:
            batch.append(plan)
            pixels = sum(p.scene.height * p.scene.width for p in batch)
            if pixels >= _BATCH_PIXELS or sum(len(p.grid.large_tiles()) for p in batch) >= tasks:
                yield batch
                batch = []
        if batch:
            yield batch

    def run(self, plans: Sequence[ScenePlan]) -> list[SceneOutcome]:
        """Build scenes and return their outcomes; a scene that fails does not stop the others.

        Raises:
            OSError: The disk is full.
            DatasetError: The cluster gave up a task that lost its worker again and again.
        """
        graphs = [scene_graph(plan) for plan in plans]
        total = sum(_tasks(plan) for plan in plans)
        name = plans[0].scene.path.name + (f" and {len(plans) - 1} more" if len(plans) > 1 else "")
        with progress_bar() as bar:
            shown = bar.add_task(f"Building {name}", total=total)
            if self._client is None:
                # A pool of our own ends its tasks before an error leaves this place.
                with ThreadPoolExecutor(self._workers) as pool, _Advance(bar, shown):
                    return list(compute(*graphs, scheduler="threads", pool=pool))
            return _gather(self._client, graphs, lambda i: bar.advance(shown, _tasks(plans[i])))

    def _threads(self) -> int:
        return self._workers if self._client is None else max(1, sum(self._client.nthreads().values()))


def scene_graph(plan: ScenePlan) -> Delayed:
    """Return the graph of one scene, whose value is a `SceneOutcome`."""
    # Builds may share a cluster, so the names of tasks contain the build's identity.
    token = tokenize(str(plan.dataset), plan.identity)

    def task(function: Callable[..., Any], *arguments: Any, name: str) -> Any:
        return delayed(function, pure=True)(*arguments, dask_key_name=f"{name}-{token}")

    whole = delayed(plan, name=f"plan-{token}", traverse=False)
    strips = [task(_strip, whole, i, name=f"strip-{i}") for i in range(plan.scratch.strips)]
    fitted = task(_fit, whole, strips, name="fit")
    cuts = [
        task(_cut, whole, fitted, large.row, large.col, name=f"cut-{large.row}-{large.col}")
        for large in plan.grid.large_tiles()
    ]
    return task(_finish, whole, fitted, cuts, name="finish")  # type: ignore[no-any-return]


def _tasks(plan: ScenePlan) -> int:
    return plan.scratch.strips + len(plan.grid.large_tiles()) + 2


@dataclass(frozen=True)
class _TaskResult:
    """A task's value: processor seconds by stage, why its scene failed, and the result of `fit`."""

    seconds: Counter[str]
    failure: str | None = None
    statistics: SceneStatistics | None = None


def _strip(plan: ScenePlan, strip: int) -> _TaskResult:
    if plan.entry.exists():
        return _TaskResult(Counter())
    try:
        with gdal_environment():
            return _TaskResult(Counter(measure_strip(plan, strip)))
    except SceneError as error:
        return _TaskResult(Counter(), str(error))


def _fit(plan: ScenePlan, strips: list[_TaskResult]) -> _TaskResult:
    seconds = sum((strip.seconds for strip in strips), Counter[str]())
    failure = next((strip.failure for strip in strips if strip.failure), None)
    if failure or plan.entry.exists():
        return _TaskResult(seconds, failure)
    try:
        return _TaskResult(seconds, None, fit(plan))
    except SceneError as error:
        return _TaskResult(seconds, str(error))


def _cut(plan: ScenePlan, fitted: _TaskResult, row: int, col: int) -> _TaskResult:
    if fitted.statistics is None or plan.entry.exists():
        return _TaskResult(Counter())
    with gdal_environment():
        return _TaskResult(Counter(write_large_tile(plan, fitted.statistics, GridTile("large", row, col))))


def _finish(plan: ScenePlan, fitted: _TaskResult, cuts: list[_TaskResult]) -> SceneOutcome:
    seconds = sum((cut.seconds for cut in cuts), fitted.seconds)
    if fitted.failure:
        plan.discard()
    elif fitted.statistics is not None:
        with gdal_environment():
            seconds += Counter(finish_scene(plan, fitted.statistics))
    return SceneOutcome(dict(seconds), fitted.failure)


def gdal_environment() -> AbstractContextManager[Any]:
    """Return the context in which GDAL keeps to a bounded cache of blocks."""
    return rasterio.Env(GDAL_CACHEMAX=_GDAL_CACHE_BYTES)  # type: ignore[no-any-return]


class _Advance(Callback):
    """Moves a progress bar on by one for each task done in this process."""

    def __init__(self, bar: "Progress", shown: "TaskID") -> None:
        self._bar, self._shown = bar, shown
        super().__init__(posttask=self._advance)  # type: ignore[no-untyped-call]

    def _advance(self, *_: object) -> None:
        self._bar.advance(self._shown)


def _connect(address: str) -> "Client":
    try:
        from distributed import Client
    except ModuleNotFoundError:
        raise DatasetError(
            'a Dask cluster needs distributed, which is not installed: pip install "fusar-klip[cluster]"'
        ) from None
    try:
        return Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"no Dask scheduler answers at {address} ({error}): start one with dask scheduler, or leave "
            "--scheduler out"
        ) from error


def _gather(client: "Client", graphs: Sequence[Delayed], done: Callable[[int], None]) -> list[SceneOutcome]:
    """Run the graphs on the cluster; the remaining ones are cancelled if one fails for good."""
    from distributed import KilledWorker, as_completed

    futures = client.compute(list(graphs))
    places = {future.key: i for i, future in enumerate(futures)}
    try:
        for future in as_completed(futures, loop=client.loop):
            future.result()
            done(places[future.key])
        return [future.result() for future in futures]
    except KilledWorker as error:
        raise DatasetError(
            f"the cluster lost its workers again and again at one task ({error}): give them more memory, and "
            "run the same fusar-klip build again"
        ) from error
    finally:
        client.cancel(futures)
