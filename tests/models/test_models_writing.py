import itertools

import pytest
import torch
from torch import Tensor

from fusar_klip.models import KlipNetwork, ModelSettings, Tokenizer


@pytest.fixture
def texts(network: KlipNetwork, tokenizer: Tokenizer) -> tuple[Tensor, Tensor, Tensor]:
    """Image tokens of three images, and ids and mask of three texts with holes."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            # A fresh decoder says the same whatever it is asked; larger weights make it say something.
            if parameter.ndim == 2:
                parameter.mul_(1.5)
    segments = [["3", "ships"], ["long"], ["urban", "sea", "a"]]
    rows = [
        tokenizer.join([[*tokenizer.segments([w], 64)[0], tokenizer.mask_id] for w in s]) for s in segments
    ]
    tokens = network.image_tokens(torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0)))
    return (tokens.detach(), *tokenizer.pad(rows))


@torch.no_grad()
def log_probabilities(
    network: KlipNetwork, texts: tuple[Tensor, Tensor, Tensor], row: int, answer: list[int]
) -> Tensor:
    """What each next token has after `answer`, without cache: (V,)."""
    tokens, ids, mask = (tensor[row : row + 1] for tensor in texts)
    image_kv = network.image_kv(tokens)
    context = network.fuse(ids, mask, image_kv)
    read = torch.tensor([[network.special.cls_id, *answer]])
    logits = network.decode(read, context, mask, image_kv)[0, -1].double()
    logits[list(network.special.never_written)] = -torch.inf
    return logits.log_softmax(0)


def test_greedy_takes_the_likeliest_token_each_time(
    network: KlipNetwork, texts: tuple[Tensor, Tensor, Tensor]
) -> None:
    tokens, ids, mask = texts
    spans = [2, 1, 0]
    answers = network.generate(ids, mask, network.image_kv(tokens), spans=spans, max_tokens=9)
    for row, wanted in enumerate(spans):
        expected: list[int] = []
        while expected.count(network.special.sep_id) < wanted and len(expected) < 9:
            expected.append(int(log_probabilities(network, texts, row, expected).argmax()))
        assert answers[row] == expected
    assert answers[2] == []
    assert len(answers[0]) > 0


def test_an_answer_ends_after_its_spans(network: KlipNetwork, texts: tuple[Tensor, Tensor, Tensor]) -> None:
    tokens, ids, mask = texts
    sep = network.special.sep_id
    with torch.no_grad():
        # A decoder that would rather stop than not.
        network.decoder.cls.predictions.bias[sep] += 4
    for beams in (1, 3):
        answers = network.generate(ids, mask, network.image_kv(tokens), spans=2, max_tokens=40, beams=beams)
        assert [answer.count(sep) for answer in answers] == [2, 2, 2]
        assert all(answer[-1] == sep for answer in answers)
        assert not {token for answer in answers for token in answer} & set(network.special.never_written)


def test_beams_as_many_as_words_find_the_best_answer_of_two_tokens(
    nano: ModelSettings, texts: tuple[Tensor, Tensor, Tensor], tokenizer: Tokenizer
) -> None:
    torch.manual_seed(4)
    words = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d"])
    network = KlipNetwork(nano, words).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3)
    ids, mask = words.pad([[2, 5, 4, 3], [2, 4, 3], [2, 6, 7, 4, 3]])
    texts = (network.image_tokens(torch.randn(3, 1, 32, 32)).detach(), ids, mask)
    sep = words.sep_id
    allowed = [sep, 5, 6, 7, 8]

    def score(row: int, answer: tuple[int, ...]) -> float:
        total = sum(
            float(log_probabilities(network, texts, row, list(answer[:place]))[token])
            for place, token in enumerate(answer)
        )
        return total / len(answer)

    # One that ended goes before one that was cut.
    ended = [(sep,), *((first, sep) for first in allowed[1:])]
    answers = network.generate(ids, mask, network.image_kv(texts[0]), max_tokens=2, beams=len(allowed))
    for row in range(3):
        assert answers[row] == list(max(ended, key=lambda answer: score(row, answer)))
    one_token = network.generate(ids, mask, network.image_kv(texts[0]), max_tokens=1, beams=1)
    assert [len(answer) for answer in one_token] == [1, 1, 1]
    assert list(itertools.chain(*one_token)) == [
        int(log_probabilities(network, texts, row, []).argmax()) for row in range(3)
    ]


def test_more_beams_are_no_worse(network: KlipNetwork, texts: tuple[Tensor, Tensor, Tensor]) -> None:
    tokens, ids, mask = texts
    image_kv = network.image_kv(tokens)

    def mean(row: int, answer: list[int]) -> float:
        parts = [float(log_probabilities(network, texts, row, answer[:n])[t]) for n, t in enumerate(answer)]
        return sum(parts) / len(parts)

    greedy = network.generate(ids, mask, image_kv, spans=5, max_tokens=6)
    searched = network.generate(ids, mask, image_kv, spans=5, max_tokens=6, beams=8)
    assert sum(mean(r, searched[r]) for r in range(3)) > sum(mean(r, greedy[r]) for r in range(3))


def test_an_answer_does_not_depend_on_its_batch(
    network: KlipNetwork, texts: tuple[Tensor, Tensor, Tensor]
) -> None:
    tokens, ids, mask = texts
    together = network.generate(ids, mask, network.image_kv(tokens), spans=[3, 1, 2], max_tokens=8, beams=3)
    for row, spans in enumerate([3, 1, 2]):
        length = int(mask[row].sum())
        alone = network.generate(
            ids[row : row + 1, :length],
            mask[row : row + 1, :length],
            network.image_kv(tokens[row : row + 1]),
            spans=spans,
            max_tokens=8,
            beams=3,
        )
        assert alone == together[row : row + 1]
