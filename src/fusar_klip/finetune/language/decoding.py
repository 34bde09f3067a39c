"""Decoding of a fine-tuned model: it generates the text at a [MASK], or ranks given answers.

Letters: B texts, C candidates, T decoder tokens, R rows of candidates and texts, K tokens without padding,
V vocabulary, S image side.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fusar_klip.finetune.resized_images import ResizedImages
from fusar_klip.models import Klip
from fusar_klip.models.network.bert import Packing
from fusar_klip.models.network.cross_attention import CrossAttentionCache
from fusar_klip.progress import track

_BATCH = 32
# Rows that the decoder scores at a time: with 30,000 words and 8 tokens each some 250 MB of logits.
_ROWS = 256


@torch.inference_mode()
def generate_texts(
    model: Klip,
    images_nss: ResizedImages,
    indices: Sequence[int],
    prompts: Sequence[list[int]],
    *,
    beams: int,
    max_tokens: int,
) -> list[str]:
    """Return what the decoder generates at each prompt's [MASK], lower case.

    Args:
        model: The model.
        images_nss: (N, S, S) uint8.
        indices: The image of each prompt, an index into `images_nss`.
        prompts: Token ids.
        beams: Width of the beam search.
        max_tokens: Longest answer.
    """
    texts: list[str] = []
    for batch in _batches(len(prompts), "Generating texts"):
        ids_bl, mask_bl = _padded(model, [prompts[i] for i in batch])
        image_kv = _image_kv(model, images_nss[[indices[i] for i in batch]])
        generated = model.network.generate(ids_bl, mask_bl, image_kv, max_tokens=max_tokens, beams=beams)
        texts += [model.tokenizer.decode(ids).removesuffix("[SEP]").strip() for ids in generated]
    return texts


@torch.inference_mode()
def rank_answers(
    model: Klip,
    images_nss: ResizedImages,
    indices: Sequence[int],
    prompts: Sequence[list[int]],
    candidates: Sequence[list[int]],
) -> list[int]:
    """Return the index of the likeliest candidate (token ids, [SEP] last) at each prompt's [MASK]."""
    network, tokenizer = model.network, model.tokenizer
    answers_ct, answer_mask_ct = (tensor.to(model.device) for tensor in tokenizer.pad(candidates))
    chosen: list[int] = []
    for batch in _batches(len(prompts), "Ranking answers"):
        ids_bl, mask_bl = _padded(model, [prompts[i] for i in batch])
        image_kv = _image_kv(model, images_nss[[indices[i] for i in batch]])
        decoder_kv = network.decoder_kv(network.fuse(ids_bl, mask_bl, image_kv), mask_bl, image_kv)
        block = max(1, _ROWS // len(batch))
        parts = [
            _log_likelihood(model, decoder_kv, answers_ct[at : at + block], answer_mask_ct[at : at + block])
            for at in range(0, len(candidates), block)
        ]
        chosen += torch.cat(parts).argmax(0).tolist()
    return chosen


def _log_likelihood(
    model: Klip, decoder_kv: CrossAttentionCache, answers_ct: Tensor, mask_ct: Tensor
) -> Tensor:
    """Return (C, B) log-probabilities of the whole answers."""
    network, texts = model.network, len(decoder_kv)
    # Rows run over candidates, then texts, as those of tiled keys and values do.
    answer_rt, mask_rt = (tensor.repeat_interleave(texts, 0) for tensor in (answers_ct, mask_ct))
    first_r1 = torch.full_like(answer_rt[:, :1], network.special.cls_id)
    input_rt = torch.cat([first_r1, answer_rt[:, :-1]], dim=1)
    packing = Packing(mask_rt)
    states_kd = network.decoder.bert(
        network.decoder.bert.embeddings(input_rt, packing),
        packing,
        cross_kv=decoder_kv.tiled(len(answers_ct)),
        causal=True,
    )
    logits_kv = network.decoder.logits(states_kd).float()
    likelihood_k = logits_kv.log_softmax(1).gather(1, packing.pack(answer_rt)[:, None])[:, 0]
    return packing.unpack(likelihood_k).sum(1).view(len(answers_ct), texts)


def _batches(count: int, description: str) -> Iterator[list[int]]:
    for start in track(range(0, count, _BATCH), description):
        yield list(range(start, min(count, start + _BATCH)))


def _image_kv(model: Klip, images_bss: ResizedImages) -> CrossAttentionCache:
    images_b1ss = model.preprocess.standardise(images_bss).to(model.device)
    return model.network.image_kv(model.network.image_tokens(images_b1ss))


def _padded(model: Klip, texts: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
    ids_bl, mask_bl = model.tokenizer.pad(texts)
    return ids_bl.to(model.device), mask_bl.to(model.device)
