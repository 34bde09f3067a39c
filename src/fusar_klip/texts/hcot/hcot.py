"""Writes a text version by a language model with a hierarchical chain of thought.

    evidence (measured once) -> schedule -> prompts -> cache or provider -> check -> texts/vNNN.parquet

After an interruption of any kind, the same command resumes from the answers on disk. The first Ctrl-C waits
for requests in flight, because they are paid for; the second does not.
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
    """Request a text for every kept tile from a language model, and write the next text version.

    Raises:
        SettingsError: The settings contradict each other.
        ProviderError: The model does not answer, or some tiles have no answer; answers so far are kept.
        BudgetError: The budget is used up; answers so far are kept.
        DatasetError: There is no finished data set, or something in it cannot be read or written.
        KeyboardInterrupt: The user stopped the run; answers so far are kept.
    """
    price = _checked_price(settings)
    provider = _provider(settings)
    stop = StopFlag()
    with closing(_evidence(dataset, settings)) as store, closing(AnswerCache(dataset)) as cache:
        budget = Budget(cache, provider.name, price, settings.budget_usd)
        client: LlmClient | OpenAiBatch
        if settings.batch and isinstance(provider, OpenAiChat):
            client = OpenAiBatch(provider, dataset, cache, budget, stop, settings)
        else:
            client = LlmClient(provider, cache, budget, stop, settings)
        with closing(TextWriter()) as writer:
            _run(_request_until_done(store, provider, client, budget, stop, settings, writer))
            _check_complete(settings, stop, writer.counts)
            version = writer.write(
                dataset, source=provider.name, prompt_version=PROMPT_VERSION, maker=_maker(settings, provider)
            )
        return _summary(dataset, version, writer.counts, client, budget.spent_usd())


def estimate_with_llm(dataset: Path, settings: DescribeSettings) -> DescribeEstimate:
    """Run the schedule with stand-in answers, and count requests and tokens; see `describe.estimate`."""
    if settings.provider != "openai":
        raise SettingsError(
            f"--dry-run estimates the cost of --provider openai; {settings.provider} costs nothing"
        )
    name, price = model_name(settings), price_of(settings)
    with closing(_evidence(dataset, settings)) as store, closing(AnswerCache(dataset)) as cache:
        dry_run = DryRunClient(name, chat_parameters(settings), cache, settings)
        stop = StopFlag()
        with _progress("estimating", len(store), lambda: None) as advance:
            _run(generate(store, dry_run, stop, settings, advance))
        if stop.reason is not None:
            raise stop.reason
        usage = dry_run.usage
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


async def _request_until_done(
    store: EvidenceStore,
    provider: Provider,
    client: LlmClient | OpenAiBatch,
    budget: Budget,
    stop: StopFlag,
    settings: DescribeSettings,
    writer: TextWriter,
) -> None:
    """Run the schedule over all tiles; with batches repeatedly, until no answer is outstanding."""
    try:
        with _graceful_stop(stop):
            if isinstance(client, OpenAiBatch):
                await client.resume()
            while True:
                with _progress("describing", len(store), budget.spent_usd) as advance:

                    def receive(outcome: TileResult, advance: Callable[[TileResult], None] = advance) -> None:
                        writer.add(outcome)
                        advance(outcome)

                    await generate(store, client, stop, settings, receive)
                if not isinstance(client, OpenAiBatch) or not await client.submit_and_wait() or stop:
                    return
                writer.clear()
    except StoppedError:
        return
    finally:
        if isinstance(client, OpenAiBatch):
            client.close()
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
            f"the price of {settings.model} is not known, so --budget cannot be applied: give "
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
            f"{counts.unanswered} tiles have no answer ({counts.reason}): run the same command again to "
            "request only these, or set leave_unanswered=true to write a version without them"
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
    dataset: Path, version: str, counts: TextCounts, client: LlmClient | OpenAiBatch, cost_usd: float | None
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
        requests=client.usage.requests,
        cached=client.usage.cached,
        input_tokens=client.usage.input_tokens,
        output_tokens=client.usage.output_tokens,
        cost_usd=cost_usd,
    )


@contextmanager
def _progress(
    what: str, tiles: int, spent_usd: Callable[[], float | None]
) -> Iterator[Callable[[TileResult], None]]:
    """Show a progress bar of the tiles, with their cost so far."""
    with progress_bar() as bar:
        task = bar.add_task(what, total=tiles)

        def advance(_outcome: TileResult) -> None:
            usd = None if bar.disable else spent_usd()
            bar.update(task, advance=1, description=what if usd is None else f"{what}, {usd:.2f} USD")

        yield advance


@contextmanager
def _graceful_stop(stop: StopFlag) -> Iterator[None]:
    """Stop the run after the requests in flight on the first SIGINT or SIGTERM; the second one interrupts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM)

    def on_signal() -> None:
        stop.set(KeyboardInterrupt())
        for number in numbers:
            loop.remove_signal_handler(number)

    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, also if an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()
