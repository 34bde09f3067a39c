"""A text version by a language model: opens what the run needs, runs it, and writes what came of it.

    evidence (measured once) -> schedule -> prompts -> cache or provider -> check -> texts/vNNN.parquet

Interrupted in any way, the same command goes on from the answers on disk. The first Ctrl-C waits for requests
in flight, because they are paid for; the second does not.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fusar_klip.errors import BudgetError, ProviderError, SettingsError
from fusar_klip.llm import Provider
from fusar_klip.llm.answer_cache import AnswerCache
from fusar_klip.llm.client import DryRunClient, LlmClient
from fusar_klip.llm.limits import Budget, StopFlag, StoppedError
from fusar_klip.llm.openai_batch import OpenAiBatch
from fusar_klip.llm.openai_chat import OpenAiChat, chat_parameters, model_name
from fusar_klip.llm.prices import Price, price_of
from fusar_klip.progress import progress_bar
from fusar_klip.texts.hcot.prompts import PROMPT_VERSION
from fusar_klip.texts.hcot.schedule import generate
from fusar_klip.texts.measure.evidence_store import EvidenceStore, ensure_evidence
from fusar_klip.texts.settings import DescribeSettings
from fusar_klip.texts.summary import DescribeEstimate, DescribeSummary
from fusar_klip.texts.text_writer import TextCounts, TextWriter, TileResult

T = TypeVar("T")


def describe_with_llm(dataset: Path, settings: DescribeSettings) -> DescribeSummary:
    """Ask a language model about every kept tile, and write the next text version.

    Raises:
        SettingsError: The settings do not fit together.
        ProviderError: The model cannot be asked, or some tiles got no answer; what was answered is kept.
        BudgetError: The budget is used up; what was answered is kept.
        DatasetError: There is no finished data set, or something in it cannot be read or written.
        KeyboardInterrupt: Somebody asked to stop; what was answered is kept.
    """
    price = _checked_price(settings)
    provider = _provider(settings)
    stop = StopFlag()
    with closing(_evidence(dataset, settings)) as store, closing(AnswerCache(dataset)) as cache:
        budget = Budget(cache, provider.name, price, settings.budget_usd)
        asking: LlmClient | OpenAiBatch
        if settings.batch and isinstance(provider, OpenAiChat):
            asking = OpenAiBatch(provider, dataset, cache, budget, stop, settings)
        else:
            asking = LlmClient(provider, cache, budget, stop, settings)
        with closing(TextWriter()) as writer:
            _run(_ask_until_done(store, provider, asking, budget, stop, settings, writer))
            _check_complete(settings, stop, writer.counts)
            version = writer.write(
                dataset, source=provider.name, prompt_version=PROMPT_VERSION, maker=_maker(settings, provider)
            )
        return _summary(dataset, version, writer.counts, asking, budget.spent_usd())


def estimate_with_llm(dataset: Path, settings: DescribeSettings) -> DescribeEstimate:
    """Go through all tiles with stand-in answers; see `describe.estimate`."""
    if settings.provider != "openai":
        raise SettingsError(
            f"--dry-run tells what an openai model would cost; {settings.provider} costs nothing"
        )
    name, price = model_name(settings), price_of(settings)
    with closing(_evidence(dataset, settings)) as store, closing(AnswerCache(dataset)) as cache:
        rehearsal = DryRunClient(name, chat_parameters(settings), cache, settings)
        stop = StopFlag()
        with _shown("estimating", len(store), lambda: None) as advance:
            _run(generate(store, rehearsal, stop, settings, advance))
        if stop.reason is not None:
            raise stop.reason
        usage = rehearsal.usage
        cost_usd = None
        if price is not None:
            cost_usd = price.usd(usage.input_tokens, usage.output_tokens, batch=settings.batch)
        return DescribeEstimate(
            dataset=str(dataset),
            source=name,
            tiles=len(store),
            requests=usage.requests,
            cached=usage.cached,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cost_usd=cost_usd,
            spent_usd=Budget(cache, name, price, None).spent_usd(),
        )


async def _ask_until_done(
    store: EvidenceStore,
    provider: Provider,
    asking: LlmClient | OpenAiBatch,
    budget: Budget,
    stop: StopFlag,
    settings: DescribeSettings,
    writer: TextWriter,
) -> None:
    """Go through all tiles; with batches again and again, until no answer is outstanding."""
    try:
        with _ctrl_c(stop):
            if isinstance(asking, OpenAiBatch):
                await asking.resume()
            while True:
                with _shown("describing", len(store), budget.spent_usd) as advance:

                    def receive(outcome: TileResult, advance: Callable[[TileResult], None] = advance) -> None:
                        writer.add(outcome)
                        advance(outcome)

                    await generate(store, asking, stop, settings, receive)
                if not isinstance(asking, OpenAiBatch) or not await asking.exchange() or stop:
                    return
                writer.clear()
    except StoppedError:
        return
    finally:
        if isinstance(asking, OpenAiBatch):
            asking.close()
        await provider.close()


def _provider(settings: DescribeSettings) -> Provider:
    if settings.provider == "openai":
        return OpenAiChat(settings)
    if settings.batch:
        raise SettingsError("batch=true is for --provider openai")
    # torch and transformers take seconds to import.
    from fusar_klip.llm.transformers_local import TransformersLocal

    return TransformersLocal(settings)


def _evidence(dataset: Path, settings: DescribeSettings) -> EvidenceStore:
    return ensure_evidence(dataset, settings.workers, known_places=settings.known_places)


def _checked_price(settings: DescribeSettings) -> Price | None:
    price = price_of(settings, local=settings.provider == "transformers")
    if price is None and settings.budget_usd is not None:
        raise SettingsError(
            f"the price of {settings.model} is not known, so no budget can be kept: give "
            "--set input_usd=... and --set output_usd=... (US dollars for a million tokens)"
        )
    return price


def _check_complete(settings: DescribeSettings, stop: StopFlag, counts: TextCounts) -> None:
    if stop.reason is not None and not (
        isinstance(stop.reason, BudgetError) and settings.leave_unanswered and counts.described
    ):
        raise stop.reason
    if counts.unanswered and not (settings.leave_unanswered and counts.described):
        raise ProviderError(
            f"{counts.unanswered} tiles got no answer ({counts.reason}): the same command asks for them "
            "again and pays for no other; --set leave_unanswered=true writes a version without them"
        )


def _maker(settings: DescribeSettings, provider: Provider) -> dict[str, Any]:
    return {
        "verb": "describe",
        "provider": settings.provider,
        "model": provider.name,
        "parameters": dict(provider.parameters),
        "mode": settings.mode,
        "prompt_version": PROMPT_VERSION,
    }


def _summary(
    dataset: Path, version: str, counts: TextCounts, asking: LlmClient | OpenAiBatch, cost_usd: float | None
) -> DescribeSummary:
    return DescribeSummary(
        dataset=str(dataset),
        version=version,
        path=str(dataset / "texts" / f"{version}.parquet"),
        tiles=counts.described,
        texts=counts.texts,
        by_task=dict(sorted(counts.by_task.items())),
        rejected=counts.rejected,
        flagged=counts.flagged,
        unanswered=counts.unanswered,
        requests=asking.usage.requests,
        cached=asking.usage.cached,
        input_tokens=asking.usage.input_tokens,
        output_tokens=asking.usage.output_tokens,
        cost_usd=cost_usd,
    )


@contextmanager
def _shown(
    what: str, tiles: int, spent_usd: Callable[[], float | None]
) -> Iterator[Callable[[TileResult], None]]:
    """Show how many tiles are done, and what they have cost so far."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=tiles)

        def advance(_outcome: TileResult) -> None:
            usd = None if bar.disable else spent_usd()
            bar.update(task, advance=1, description=what if usd is None else f"{what}, {usd:.2f} USD")

        yield advance


@contextmanager
def _ctrl_c(stop: StopFlag) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM end the run once nothing is in flight; the second one interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def ask() -> None:
        stop.set(KeyboardInterrupt())
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, ask)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, also where a loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
