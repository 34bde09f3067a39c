"""Visual question answering by general language models (paper 4.5, table 7).

The models run behind any server with OpenAI's chat protocol. Answers are cached in RESULTS/cache, so that an
interrupted benchmark resumes and no request is paid for twice. The prompt holds the names that answers are
made of and the form of the answer, and nothing else about the data set.
"""

import asyncio
import hashlib
import io
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from PIL import Image

from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.tasks.vqa import VqaRow
from fusar_klip.datasets.label_texts.language_data import NONE, LanguageData, Question
from fusar_klip.errors import ProviderError
from fusar_klip.image_io import read_image
from fusar_klip.llm import EncodedImage, LlmSettings, RefusedError, Request, TryAgainError
from fusar_klip.llm.answer_cache import AnswerCache
from fusar_klip.llm.client import LlmClient
from fusar_klip.llm.limits import Budget, StopFlag, StoppedError
from fusar_klip.llm.openai_chat import OpenAiChat
from fusar_klip.llm.prices import price_of
from fusar_klip.progress import progress_bar

SYSTEM = (
    "You look at synthetic aperture radar (SAR) images of the ground from above: bright is strong "
    "backscatter, dark is weak. Answer the question about the image, in the form that is asked for, with "
    "your best guess where you are not sure."
)
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string"}},
    "required": ["answer"],
    "additionalProperties": False,
}


def ask_language_model(
    evaluated: EvaluatedModel, questions: Sequence[Question], data: LanguageData, row: VqaRow
) -> tuple[list[str], list[str]]:
    """Return the language model's answer to each question, and remarks for the reader of the scores.

    A question that the server refuses (content filter) gets an empty answer, which is wrong.

    Raises:
        ProviderError: The model cannot be asked; the cache keeps its answers.
    """
    given = {"base_url": evaluated.base_url} if evaluated.base_url else {}
    settings = LlmSettings(model=evaluated.language_model, concurrency=row.concurrency, **given)
    with closing(AnswerCache(evaluated.results)) as cache:
        run = _Run(questions, data, row, settings, cache)
        asyncio.run(run.ask_all())
    if run.stop.reason is not None:
        raise run.stop.reason
    notes = [f"not trained; {run.client.usage.cached} answers came from the cache."]
    if run.refused:
        if len(run.refused) == len(questions):
            raise ProviderError(
                f"the server refused every question ({run.refused[0]}): use a model that accepts images"
            )
        notes.append(f"the server refused {len(run.refused)} questions, which count as wrong.")
    return run.answers, notes


def request_for(question: Question, names: Sequence[str]) -> Request:
    """Return the request for a question: the question, and the form of the answer."""
    numeric = all(answer.isdigit() for answer in question.answers)
    if question.answer_type == "number":
        form = "Answer with one whole number."
    elif question.answer_type == "name":
        form = f"Answer with one of: {', '.join(names)}."
    elif numeric:
        form = (
            "The image is divided into a square grid of regions, numbered row by row from 1 in the upper "
            "left. Answer with the numbers of all regions that apply, separated by commas."
        )
    else:
        form = (
            f"Answer with all that apply of: {', '.join(names)}; separated by commas. "
            f"Answer {NONE} if none applies."
        )
    return Request(SYSTEM, (), f"{question.text}\n{form}", SCHEMA, None, True)


def encode_image(file: Path, longest_px: int) -> EncodedImage:
    """Return an image of any depth as a single-channel PNG, its longer side at most `longest_px` pixels.

    Raises:
        DatasetError: It cannot be read.
    """
    image = Image.fromarray(read_image(file))
    image.thumbnail((longest_px, longest_px), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return EncodedImage(buffer.getvalue(), hashlib.sha256(buffer.getvalue()).hexdigest())


class _Run:
    """All questions to one model."""

    def __init__(
        self,
        questions: Sequence[Question],
        data: LanguageData,
        row: VqaRow,
        settings: LlmSettings,
        cache: AnswerCache,
    ) -> None:
        self.questions, self.data, self.row = questions, data, row
        self.answers = [""] * len(questions)
        self.refused: list[str] = []
        self.stop = StopFlag()
        self.provider = OpenAiChat(settings)
        budget = Budget(cache, self.provider.name, price_of(settings), None)
        self.client = LlmClient(self.provider, cache, budget, self.stop, settings)

    async def ask_all(self) -> None:
        """Keep at most `concurrency` requests in flight; wait for those in flight when the run has to end."""
        waiting = iter(range(len(self.questions)))
        with progress_bar() as bar:
            shown = bar.add_task(f"Asking {self.provider.name}", total=len(self.questions))

            async def work() -> None:
                for place in waiting:
                    if self.stop:
                        return
                    await self._ask(place)
                    bar.advance(shown)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self.row.concurrency):
                        group.create_task(work())
            finally:
                await self.provider.close()

    async def _ask(self, place: int) -> None:
        question = self.questions[place]
        try:
            file = self.data.images[question.image].file
            image = await asyncio.to_thread(encode_image, file, self.row.image_px)
            request = request_for(question, self.data.names)
            self.answers[place] = (await self.client.ask(request, image, 0)).text
        except RefusedError as refusal:
            self.refused.append(str(refusal))
        except StoppedError:
            return
        except TryAgainError as failure:
            self.stop.set(
                ProviderError(
                    f"{self.provider.name} does not answer ({failure}): run the same command again to resume"
                )
            )
        # Requests in flight are paid for, so they end before any other error is raised.
        except Exception as error:
            self.stop.set(error)
