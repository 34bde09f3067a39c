"""Schedules the requests about all tiles as a graph: HCoT-MIS (paper 3.2, eqs. 1 to 3).

T_L = f(S_L), T_M = f(S_M, T_L), T_S = f(S_S, T_M): a tile waits for its parent, and for nothing else. Tiles
whose parent is done are taken first, so that few pyramids are open at a time and memory does not grow with
the data set. Results are passed on as soon as they are known, in no order.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fusar_klip.errors import ProviderError
from fusar_klip.llm import DeferredError, EncodedImage, RefusedError, Request, TryAgainError
from fusar_klip.llm.client import AnswerSource
from fusar_klip.llm.limits import StopFlag, StoppedError
from fusar_klip.texts.hcot.answers import InvalidAnswer, read_answer
from fusar_klip.texts.hcot.prompts import first_request, next_request, repair_request
from fusar_klip.texts.measure.evidence_store import EvidenceStore, TileContext
from fusar_klip.texts.settings import DescribeSettings
from fusar_klip.texts.text_writer import DescribedTile, RejectedTile, TileResult, UnansweredTile
from fusar_klip.texts.tile_images import tile_png

# After so many consecutive tiles without an answer, the server is at fault rather than a tile.
_MAX_CONSECUTIVE_FAILURES = 10
# PNG compression releases the GIL; more threads only make the event loop wait for it.
_IMAGE_THREADS = 2


@dataclass
class _Pyramid:
    """A root tile and all tiles inside it: results so far, and tiles that wait for their parent."""

    finished: dict[str, TileResult] = field(default_factory=dict)
    waiting: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    tile_id: str
    parent: TileResult | None
    pyramid: _Pyramid


class Schedule:
    """Order of the tiles; see the module's docstring.

    Args:
        graph: (tile_id, parent_id) of every tile, parents before their children, one pyramid after another.
    """

    def __init__(self, graph: Iterator[tuple[str, str | None]]) -> None:
        self._graph = graph
        self._family = _Pyramid()
        self._ready: deque[_Job] = deque()
        self._in_flight = 0
        self._changed = asyncio.Condition()

    async def take(self) -> _Job | None:
        """Return a tile whose parent is done; wait for one if necessary; None when all tiles are taken."""
        async with self._changed:
            while (job := self._next()) is None:
                if not self._in_flight:
                    return None
                await self._changed.wait()
            self._in_flight += 1
            return job

    async def finish(self, job: _Job, result: TileResult) -> None:
        """Store the result of a tile, and release the tiles that wait for it."""
        async with self._changed:
            self._in_flight -= 1
            job.pyramid.finished[job.tile_id] = result
            for child in job.pyramid.waiting.pop(job.tile_id, ()):
                self._ready.append(_Job(child, result, job.pyramid))
            self._changed.notify_all()

    def _next(self) -> _Job | None:
        if self._ready:
            return self._ready.popleft()
        for tile_id, parent_id in self._graph:
            if parent_id is None:
                self._family = _Pyramid()
                return _Job(tile_id, None, self._family)
            if (parent := self._family.finished.get(parent_id)) is not None:
                return _Job(tile_id, parent, self._family)
            self._family.waiting.setdefault(parent_id, []).append(tile_id)
        return None


async def generate(
    store: EvidenceStore,
    client: AnswerSource,
    stop: StopFlag,
    settings: DescribeSettings,
    receive: Callable[[TileResult], None],
) -> None:
    """Describe every tile, at most `settings.concurrency` at a time, and pass each result to `receive`.

    If the run has to stop early, `stop.reason` is set; tiles in flight are waited for, because their answers
    are paid for, and the others are `UnansweredTile`.

    Args:
        store: Evidence and metadata of every tile.
        client: Source of the answers.
        stop: Stops the run, from outside or from here.
        settings: Prompting mode, form of the images, and limits.
        receive: Called once for every tile, in no order, in this thread.
    """
    schedule = Schedule(store.graph())
    with ThreadPoolExecutor(_IMAGE_THREADS) as threads:
        worker = _Worker(store, client, stop, settings, threads)
        await _work_through(schedule, worker, stop, settings.concurrency, receive)


async def _work_through(
    schedule: Schedule,
    worker: "_Worker",
    stop: StopFlag,
    concurrency: int,
    receive: Callable[[TileResult], None],
) -> None:
    async def work() -> None:
        while (job := await schedule.take()) is not None:
            # An error stops the run, but requests in flight are paid for, so they end before it is raised.
            try:
                result = await worker.result(job)
            except Exception as error:
                stop.set(error)
                result = UnansweredTile(job.tile_id, None)
            try:
                receive(result)
            except Exception as error:
                stop.set(error)
            await schedule.finish(job, result)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())


class _Worker:
    """Describes one tile: requests, check of the answer, repair request."""

    def __init__(
        self,
        store: EvidenceStore,
        client: AnswerSource,
        stop: StopFlag,
        settings: DescribeSettings,
        threads: ThreadPoolExecutor,
    ) -> None:
        self._store, self._client, self._stop, self._settings = store, client, stop, settings
        self._threads = threads
        self._unanswered_in_a_row = 0

    async def result(self, job: _Job) -> TileResult:
        """Describe a tile.

        Raises:
            Exception: An error that prevents the description of any other tile too.
        """
        if self._stop or isinstance(job.parent, UnansweredTile):
            return UnansweredTile(job.tile_id, None)
        try:
            result = await self._describe(job)
        except (StoppedError, DeferredError):
            return UnansweredTile(job.tile_id, None)
        except (TryAgainError, RefusedError) as failure:
            return self._without_answer(job.tile_id, failure)
        self._unanswered_in_a_row = 0
        return result

    def _without_answer(self, tile_id: str, failure: TryAgainError | RefusedError) -> TileResult:
        self._unanswered_in_a_row += 1
        if self._unanswered_in_a_row >= _MAX_CONSECUTIVE_FAILURES:
            self._stop.set(
                ProviderError(
                    f"{_MAX_CONSECUTIVE_FAILURES} tiles in a row got no answer ({failure}): check the server "
                    "and the settings, then run the same command again to resume"
                )
            )
        if isinstance(failure, RefusedError) and not self._stop:
            return RejectedTile(tile_id, str(failure), ())
        return UnansweredTile(tile_id, str(failure))

    async def _describe(self, job: _Job) -> TileResult:
        """Describe a tile; after a rejected answer use later attempts, or make one if `retry_rejected`."""
        loop = asyncio.get_running_loop()
        context, image = await loop.run_in_executor(self._threads, self._prepare, job.tile_id)
        parent = job.parent.fields if isinstance(job.parent, DescribedTile) else None
        request = first_request(context, self._settings.mode, parent)
        attempt = 0
        result = await self._attempt(context, request, image, attempt)
        may_ask = self._settings.retry_rejected
        while isinstance(result, RejectedTile):
            attempt += 1
            if not self._client.known(request, image, attempt):
                if not may_ask:
                    break
                may_ask = False
            result = await self._attempt(context, request, image, attempt)
        return result

    def _prepare(self, tile_id: str) -> tuple[TileContext, EncodedImage]:
        context = self._store.context(tile_id)
        path: Path = self._store.dataset / context.path
        png = tile_png(path, self._settings.image_px, self._settings.scale_bar, context.gsd_m)
        return context, EncodedImage(png, hashlib.sha256(png).hexdigest())

    async def _attempt(
        self, context: TileContext, request: Request, image: EncodedImage, attempt: int
    ) -> DescribedTile | RejectedTile:
        """Send all requests about a tile, and a repair request if the answer is not usable."""
        text = await self._text(request, image, attempt)
        while (following := next_request(context, self._settings.mode, request, text)) is not None:
            request, text = following, await self._text(following, image, attempt)
        answers = [text]
        read = read_answer(text, context)
        if isinstance(read, InvalidAnswer):
            answers.append(await self._text(repair_request(request, text, read.reason), image, attempt))
            read = read_answer(answers[-1], context)
        if isinstance(read, InvalidAnswer):
            return RejectedTile(context.tile_id, read.reason, tuple(answers))
        return DescribedTile(context.tile_id, context.task, read.fields, read.flags)

    async def _text(self, request: Request, image: EncodedImage, attempt: int) -> str:
        answer = await self._client.ask(request, image if request.with_image else None, attempt)
        return answer.text
