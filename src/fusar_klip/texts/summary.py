"""What `describe` says it made, or would make."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DescribeSummary:
    """What `describe` made.

    Attributes:
        dataset: The data set's folder.
        version: Name of the text version.
        path: Its file.
        tiles: Number of described tiles.
        texts: Number of sentences, eight a tile.
        by_task: Number of tiles by task.
        rejected: Tiles whose answers could not be used; `texts/rejected.jsonl` has them.
        flagged: Tiles whose text contradicts the measured evidence; `texts/flagged.jsonl` has them.
        unanswered: Tiles without an answer.
        requests: Answers that a language model gave in this run.
        cached: Answers that were paid for before.
        input_tokens: Tokens of the prompts of `requests`.
        output_tokens: Tokens of their answers.
        cost_usd: What all answers of this model for this data set have cost, earlier runs included, requests
            that broke counted at their most; None where the price is not known.
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
    """What `describe` would ask for.

    Attributes:
        dataset: The data set's folder.
        source: Provider and model.
        tiles: Number of tiles.
        requests: Requests to send, if no answer has to be repaired.
        cached: Answers that are there already.
        input_tokens: About how many tokens the prompts have, pictures included.
        output_tokens: About how many the answers have; a reasoning model's hidden ones come on top.
        cost_usd: About what the requests cost; None where the price is not known.
        spent_usd: What answers of this model for this data set have cost so far.
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
