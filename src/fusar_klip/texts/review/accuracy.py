"""Saved answers into an accuracy per field (figure 9), with 95 % intervals and the reviewers' agreement.

Accuracy is right / (right + wrong); answers "unsure" are counted separately. A sentence that several experts
judged counts once, with the share of "right" among them; without disputed sentences, careless reviewers would
raise the accuracy. Intervals are Wilson's, which are valid for few answers and near 0 and 1. The fields of a
tile are correlated, so intervals over several fields use the effective number of answers of a cluster sample
of tiles.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, get_args

from fusar_klip.catalog import FIELDS, Task, read_texts
from fusar_klip.errors import SettingsError
from fusar_klip.files import sha256

ANSWERS_FORMAT = "fusar-klip review 1"
Judgement = Literal["right", "wrong", "unsure"]
JUDGEMENTS: tuple[Judgement, ...] = get_args(Judgement)
ALL = "all"

_Z_95 = 1.959964
_Answers = dict[tuple[str, str], Judgement]
"""{(tile_id, field): judgement} of one reviewer."""
_Votes = dict[tuple[str, str], Counter[Judgement]]
"""{(tile_id, field): number of each judgement} of all reviewers."""


@dataclass(frozen=True)
class FieldAccuracy:
    """Accuracy of a field.

    Attributes:
        task: A task, or "all".
        field: A field, or "all".
        sentences: Sentences that an expert found right or wrong.
        right: Answers "right", of all reviewers.
        wrong: Answers "wrong".
        unsure: Answers "unsure".
        accuracy: Mean over the sentences of right / (right + wrong); None if there is none.
        ci_low: Lower end of its 95 % interval.
        ci_high: Upper end of its 95 % interval.
    """

    task: str
    field: str
    sentences: int
    right: int
    wrong: int
    unsure: int
    accuracy: float | None
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True)
class ReviewResult:
    """Result of a review.

    Attributes:
        dataset: The data set's folder.
        texts: The text version that was judged.
        reviewers: Names of the reviewers.
        tiles: Tiles with at least one answer.
        sampled: Tiles on the pages that were answered.
        answers: Answers of all reviewers.
        agreement: Share of the sentences judged by two reviewers that both judged alike; None for one.
        kappa: Cohen's kappa of the same, mean over pairs of reviewers.
        accuracy: A line for all, for each task, and for each field of each task, in this order.
    """

    dataset: str
    texts: str
    reviewers: list[str]
    tiles: int
    sampled: int
    answers: int
    agreement: float | None
    kappa: float | None
    accuracy: list[FieldAccuracy]


def read_answers(dataset: Path, files: Sequence[Path]) -> ReviewResult:
    """Read the answers that review pages saved.

    Several files of one reviewer, such as the parts of a large sample, are merged.

    Raises:
        SettingsError: A file is missing, is no saved review, belongs to other texts, or holds an answer that
            fits no text.
        DatasetError: The data set or its texts are missing.
    """
    saved = [_load(file) for file in files]
    versions = sorted({content["texts"] for content in saved})
    if len(versions) != 1:
        raise SettingsError(f"the answers judge different texts ({', '.join(versions)}): give those of one")
    rows = read_texts(dataset, versions[0])
    digest = sha256(dataset / "texts" / f"{versions[0]}.parquet")
    tasks: dict[str, Task] = dict(zip(rows["tile_id"], rows["task"], strict=True))
    known = set(zip(rows["tile_id"], rows["field"], strict=True))
    by_reviewer: dict[str, _Answers] = defaultdict(dict)
    sampled: set[str] = set()
    for file, content in zip(files, saved, strict=True):
        if content["texts_sha256"] != digest:
            raise SettingsError(
                f"{file} judges other texts than {versions[0]} of {dataset}: give its own data set"
            )
        sampled.update(content["sample"])
        by_reviewer[content["reviewer"]].update(_checked(file, content["answers"], known))
    reviewers = list(by_reviewer.values())
    votes: _Votes = defaultdict(Counter)
    for answers in reviewers:
        for key, judgement in answers.items():
            votes[key][judgement] += 1
    agreement, kappa = _agreement(reviewers)
    return ReviewResult(
        dataset=str(dataset),
        texts=versions[0],
        reviewers=sorted(by_reviewer),
        tiles=len({tile_id for tile_id, _ in votes}),
        sampled=len(sampled),
        answers=sum(counts.total() for counts in votes.values()),
        agreement=agreement,
        kappa=kappa,
        accuracy=_table(votes, tasks),
    )


def wilson(right: float, count: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share; `count` > 0 may be an effective number of answers."""
    share = right / count
    z2 = _Z_95**2 / count
    middle = (share + z2 / 2) / (1 + z2)
    half = _Z_95 / (1 + z2) * math.sqrt(share * (1 - share) / count + z2 / (4 * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def effective_answers(by_tile: Sequence[tuple[float, int]]) -> float:
    """Return the effective number of answers in clusters: their number over the design effect of the tiles.

    Args:
        by_tile: (right sentences, sentences) of each tile.
    """
    count = sum(n for _, n in by_tile)
    share = sum(right for right, _ in by_tile) / count
    simple = share * (1 - share) / count
    if simple == 0:
        # No variance to estimate the design effect from, so a tile counts as one answer.
        return float(len(by_tile))
    if len(by_tile) == 1:
        return 1.0
    # Variance of a ratio over clusters (Cochran 1977, eq. 6.13 without the finite population's correction).
    spread = sum((right - share * n) ** 2 for right, n in by_tile)
    clustered = len(by_tile) / (len(by_tile) - 1) * spread / count**2
    return min(float(count), count * simple / clustered) if clustered > 0 else float(count)


def _load(file: Path) -> dict[str, Any]:
    fix = "give a file that the review page saved"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the answers {file} ({error.strerror}): {fix}") from error
    except ValueError as error:
        raise SettingsError(f"{file} is no saved review ({error}): {fix}") from error
    kinds = {"texts": str, "texts_sha256": str, "reviewer": str, "sample": list, "answers": dict}
    if not isinstance(content, dict) or content.get("format") != ANSWERS_FORMAT:
        raise SettingsError(f"{file} is no saved review: {fix}")
    if wrong := [key for key, kind in kinds.items() if not isinstance(content.get(key), kind)]:
        raise SettingsError(f"{file} is damaged ({', '.join(wrong)} missing or wrong): {fix}")
    return content


def _checked(file: Path, answers: Mapping[str, Any], known: set[tuple[str, str]]) -> _Answers:
    checked: _Answers = {}
    for tile_id, fields in answers.items():
        for field, judgement in fields.items() if isinstance(fields, dict) else [("?", None)]:
            if (tile_id, field) not in known or judgement not in JUDGEMENTS:
                raise SettingsError(
                    f"{file} holds an answer that fits no text ({tile_id}, {field}: {judgement}): "
                    "save it again from the review page"
                )
            checked[tile_id, field] = judgement
    return checked


def _agreement(reviewers: Sequence[_Answers]) -> tuple[float | None, float | None]:
    """Return the share of equal judgements and Cohen's kappa, weighted means over pairs of reviewers."""
    pairs = []
    for one, other in combinations(reviewers, 2):
        if shared := sorted(one.keys() & other.keys()):
            alike = sum(one[key] == other[key] for key in shared) / len(shared)
            shares = [Counter(answers[key] for key in shared) for answers in (one, other)]
            chance = sum(shares[0][j] * shares[1][j] for j in JUDGEMENTS) / len(shared) ** 2
            kappa = 1.0 if chance == 1 else (alike - chance) / (1 - chance)
            pairs.append((len(shared), alike, kappa))
    weight = sum(n for n, _, _ in pairs)
    if weight == 0:
        return None, None
    return sum(n * alike for n, alike, _ in pairs) / weight, sum(n * kappa for n, _, kappa in pairs) / weight


def _table(votes: _Votes, tasks: Mapping[str, Task]) -> list[FieldAccuracy]:
    lines = [_line(ALL, ALL, votes)]
    for task, fields in FIELDS.items():
        of_task = {key: counts for key, counts in votes.items() if tasks[key[0]] == task}
        if of_task:
            lines.append(_line(task, ALL, of_task))
            lines += [
                _line(task, field, {key: counts for key, counts in of_task.items() if key[1] == field})
                for field in fields
            ]
    return lines


def _line(task: str, field: str, votes: _Votes) -> FieldAccuracy:
    total: Counter[Judgement] = Counter()
    shares: dict[str, list[float]] = defaultdict(list)
    for (tile_id, _), counts in votes.items():
        total.update(counts)
        if judged := counts["right"] + counts["wrong"]:
            shares[tile_id].append(counts["right"] / judged)
    sentences = sum(map(len, shares.values()))
    accuracy = low = high = None
    if sentences:
        accuracy = sum(map(sum, shares.values())) / sentences
        worth = effective_answers([(sum(of_tile), len(of_tile)) for of_tile in shares.values()])
        low, high = wilson(accuracy * worth, worth)
    return FieldAccuracy(
        task, field, sentences, total["right"], total["wrong"], total["unsure"], accuracy, low, high
    )
