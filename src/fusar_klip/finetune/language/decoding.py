"""The decoder of a fine-tuned model at work: it writes what belongs at a [MASK], or ranks given answers.

Letters: B texts, C candidates, T decoder tokens, K tokens without padding, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusar_klip.models import Klip
from fusar_klip.models.network.bert import Packing
from fusar_klip.models.network.cross_attention import CrossAttentionCache
from fusar_klip.progress import track

_BATCH = 32
# Rows that the decoder scores at a time: with 30,000 words and 8 tokens each some 250 MB of logits.
_ROWS = 256


@torch.inference_mode()
def write(
    model: Klip,
    squares: NDArray[np.uint8],
    images: Sequence[int],
    prompts: Sequence[list[int]],
    *,
    beams: int,
    max_tokens: int,
) -> list[str]:
    """Return what the decoder writes at each prompt's [MASK], lower case.

    Args:
        model: The model.
        squares: (N, S, S) uint8.
        images: Which of the squares each prompt is about.
        prompts: Token ids.
        beams: Answers kept in play.
        max_tokens: Longest answer.
    """
    texts: list[str] = []
    for some in _blocks(len(prompts), "Writing"):
        ids_bl, mask_bl = _padded(model, [prompts[i] for i in some])
        memory = _look(model, squares[[images[i] for i in some]])
        written = model.network.write(ids_bl, mask_bl, memory, max_tokens=max_tokens, beams=beams)
        texts += [model.tokenizer.decode(ids).removesuffix("[SEP]").strip() for ids in written]
    return texts


@torch.inference_mode()
def rank(
    model: Klip,
    squares: NDArray[np.uint8],
    images: Sequence[int],
    prompts: Sequence[list[int]],
    candidates: Sequence[list[int]],
) -> list[int]:
    """Return which of the candidates (token ids, [SEP] last) the decoder finds likeliest at each [MASK]."""
    network, tokenizer = model.network, model.tokenizer
    answers_ct, answer_mask_ct = (tensor.to(model.device) for tensor in tokenizer.pad(candidates))
    chosen: list[int] = []
    for some in _blocks(len(prompts), "Ranking answers"):
        ids_bl, mask_bl = _padded(model, [prompts[i] for i in some])
        memory = _look(model, squares[[images[i] for i in some]])
        looked = network.decoder_memory(network.fuse(ids_bl, mask_bl, memory), mask_bl, memory)
        many = max(1, _ROWS // len(some))
        parts = [
            _log_likelihood(model, looked, answers_ct[at : at + many], answer_mask_ct[at : at + many])
            for at in range(0, len(candidates), many)
        ]
        chosen += torch.cat(parts).argmax(0).tolist()
    return chosen


def _log_likelihood(model: Klip, looked: CrossAttentionCache, answers_ct: Tensor, mask_ct: Tensor) -> Tensor:
    """Return (C, B) log-probabilities of the whole answers."""
    network, texts = model.network, len(looked)
    # Rows run over candidates, then texts, as a tiled memory's do.
    answer_rt, mask_rt = (tensor.repeat_interleave(texts, 0) for tensor in (answers_ct, mask_ct))
    first_r1 = torch.full_like(answer_rt[:, :1], network.special.cls_id)
    input_rt = torch.cat([first_r1, answer_rt[:, :-1]], dim=1)
    packing = Packing(mask_rt)
    states_kd = network.decoder.bert(
        network.decoder.bert.embeddings(input_rt, packing),
        packing,
        memory=looked.tiled(len(answers_ct)),
        causal=True,
    )
    logits_kv = network.decoder.logits(states_kd).float()
    said_k = logits_kv.log_softmax(1).gather(1, packing.pack(answer_rt)[:, None])[:, 0]
    return packing.unpack(said_k).sum(1).view(len(answers_ct), texts)


def _blocks(count: int, description: str) -> Iterator[list[int]]:
    for start in track(range(0, count, _BATCH), description):
        yield list(range(start, min(count, start + _BATCH)))


def _look(model: Klip, squares: NDArray[np.uint8]) -> CrossAttentionCache:
    images_b1ss = model.preprocess.standardise(squares).to(model.device)
    return model.network.image_kv(model.network.image_tokens(images_b1ss))


def _padded(model: Klip, texts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    ids_bl, mask_bl = model.tokenizer.pad(texts)
    return ids_bl.to(model.device), mask_bl.to(model.device)
