"""Results of `describe` and `estimate`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DescribeSummary:
    """Result of `describe`.

    Attributes:
        dataset: The data set's folder.
        version: Name of the text version.
        path: Its file.
        tiles: Number of described tiles.
        texts: Number of sentences, one per tile and field.
        by_task: Number of tiles by task.
        rejected: Tiles whose answers were not usable; `texts/rejected.jsonl` has them.
        flagged: Tiles whose text contradicts the measured evidence; `texts/flagged.jsonl` has them.
        unanswered: Tiles without an answer.
        requests: Requests that the language model answered in this run.
        cached: Answers that came from the cache.
        input_tokens: Tokens of the prompts of `requests`.
        output_tokens: Tokens of their answers.
        cost_usd: Cost of all answers of this model for this data set in US dollars, earlier runs included; a
            request that failed after it was sent counts with its maximum. None if the price is not known.
    """

    dataset: str
    version: str
    path: str
    tiles: int
    texts: int
    by_task: dict[str, int]
    rejected: int = 0
    flagged: int = 0
    unanswered: int = 0
    requests: int = 0
    cached: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None


@dataclass(frozen=True)
class DescribeEstimate:
    """Result of `estimate`.

    Attributes:
        dataset: The data set's folder.
        source: Provider and model.
        tiles: Number of tiles.
        requests: Requests to send, if no answer needs a repair request.
        cached: Answers that are in the cache.
        input_tokens: Estimated tokens of the prompts, images included.
        output_tokens: Estimated tokens of the answers, without the hidden ones of a reasoning model.
        cost_usd: Estimated cost of the requests in US dollars; None if the price is not known.
        spent_usd: Cost of this model's answers for this data set so far, in US dollars.
    """

    dataset: str
    source: str
    tiles: int
    requests: int
    cached: int
    input_tokens: int
    output_tokens: int
    cost_usd: float | None
    spent_usd: float | None
