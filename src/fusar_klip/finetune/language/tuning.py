"""Fine-tuning of a copy of the whole model on images with texts (paper 4.4, table 5).

- ITC within the batch, without queue and momentum towers: those pay off over tens of thousands of steps.
  Texts of one meaning are positives of each other's images, never negatives.
- ITM of true pairs against one hard wrong text an image and one hard wrong image a text.
- Writing (the paper's MLM): the encoder reads a prompt with [MASK] together with the image, the decoder
  writes what belongs there, as in pretraining. A caption's prompt is [MASK] alone, an answer's is the
  question and [MASK].

The loop is `training.py`'s.

Letters: B batch, P pairs, L text tokens, T decoder tokens, N image tokens, W image width, S image side.
"""

import copy
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fusar_klip import models
from fusar_klip.benchmark.evaluated_model import EvaluatedModel
from fusar_klip.benchmark.tasks.language_rows import LanguageRow, Loss
from fusar_klip.errors import CheckpointError
from fusar_klip.finetune.resized_images import Squares
from fusar_klip.finetune.training_loop import FinetuneJob, fit, parameter_groups, seeded
from fusar_klip.models import Klip, KlipNetwork, Preprocess
from fusar_klip.models.checkpoint import save_run
from fusar_klip.models.losses import IGNORED, hard_negatives, itc_loss, itm_loss, mlm_loss
from fusar_klip.models.network.cross_attention import CrossAttentionCache
from fusar_klip.models.pretrained.encoder import ZooEncoder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingExample:
    """One image with one text, in token ids."""

    image: int
    """Which of the squares."""
    text: list[int]
    """What ITC and ITM read."""
    meaning: int
    """Texts of one number say the same: none is a wrong text for the other's image."""
    prompt: list[int]
    """What the encoder reads for writing, with one [MASK]."""
    answer: list[int]
    """What the decoder writes there, [SEP] last."""


class ZooTower(nn.Module):
    """A zoo model's image tower under the names that `KlipNetwork` calls; its pooled feature stands first.

    Args:
        tower: timm's ViT or one that answers to its names.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def tokens(self, images_b1ss: Tensor, gsd_m_b: Tensor | None = None) -> Tensor:
        """Return (B, 1 + N, W)."""
        tower: Any = self.tower
        tokens_bnw = tower.forward_features(images_b1ss)
        return torch.cat([tower.forward_head(tokens_bnw, pre_logits=True)[:, None], tokens_bnw], dim=1)

    def class_tokens(self, images_b1ss: Tensor, gsd_m_b: Tensor | None = None) -> Tensor:
        """Return (B, W)."""
        return self.tokens(images_b1ss)[:, 0]


def tuned(
    model: Klip | ZooEncoder,
    squares: Squares,
    lessons: Callable[[int], Iterable[Sequence[TrainingExample]]],
    steps_per_epoch: int,
    row: LanguageRow,
) -> Klip:
    """Return a copy of the model, fine-tuned; the model itself stays as it was.

    Args:
        model: The model under test.
        squares: (N, S, S) uint8, the images at its size.
        lessons: The batches of an epoch, by its number from 0. No two of a batch show one image.
        steps_per_epoch: How many batches an epoch has.
        row: The schedule, the losses and the text side.

    Raises:
        CheckpointError: The model has no text side, and the row names none.
    """
    with seeded(row.seed, model.device):
        learner = with_text_side(model, row)
        network = learner.network

        def batches(epoch: int) -> Iterator["_Batch"]:
            rng = np.random.default_rng([row.seed, epoch])
            for chosen in lessons(epoch):
                yield _batch(chosen, squares, learner, rng)

        tower = network.image_tower
        groups = parameter_groups(
            tower.tower if isinstance(tower, ZooTower) else tower, [], row.weight_decay, row.layer_decay
        )
        rest = [p for name, p in network.named_parameters() if not name.startswith("image_tower.")]
        groups += [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": row.weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        job = FinetuneJob(
            network, groups, batches, steps_per_epoch, lambda batch: _loss(network, batch, row.losses)
        )
        falling = fit(job, row, f"{row.task}, epochs")
        logger.info(
            "%s on %s: the loss fell from %.4f to %.4f", row.task, row.dataset, falling[0], falling[-1]
        )
    return learner


def with_text_side(model: Klip | ZooEncoder, row: LanguageRow) -> Klip:
    """Return a copy of the model that has a text side, cut at the row's number of tokens.

    Raises:
        CheckpointError: It has none, and the row names none; or the row keeps a model that no RUN can hold.
    """
    if isinstance(model, Klip):
        network = model.network
        if row.fresh_text_side:
            fresh = KlipNetwork(network.settings, model.tokenizer)
            fresh.image_tower = network.image_tower
            network = fresh
        return _copied(network, model.preprocess, model.tokenizer, model.device, row.tokens)
    text = _text_run(model, row)
    if row.save:
        raise CheckpointError(
            f"{model.source} has another project's image tower, which no RUN holds: set save = false"
        )
    tower: Any = model.network.image_tower
    settings = text.network.settings.model_copy(
        update={"image_width": tower.num_features, "image_depth": 1, "image_heads": 1}
    )
    joined = KlipNetwork(settings, text.tokenizer)
    joined.image_tower = ZooTower(tower)  # type: ignore[assignment]
    return _copied(joined, model.preprocess, text.tokenizer, model.device, row.tokens)


def tokenizer_for(model: Klip | ZooEncoder, row: LanguageRow) -> models.Tokenizer:
    """Return the tokenizer of the copy that `tuned` gives; raises as it does."""
    return (_text_run(model, row) if isinstance(model, ZooEncoder) else model).tokenizer


def keep(learner: Klip, subject: EvaluatedModel, row: LanguageRow) -> None:
    """Write the fine-tuned model to its folder, if the row says so."""
    if row.save:
        folder = kept_folder(subject.results, subject.name, row)
        save_run(learner, folder)
        logger.warning("the fine-tuned model is %s", folder)


def kept_folder(results: Path, name: str, row: LanguageRow) -> Path:
    """Return RESULTS/models/MODEL-TASK-DATASET, where a row keeps what it has made of the model `name`."""
    plain = re.sub(r"[^a-z0-9]+", "-", f"{name} {row.task} {row.dataset}".lower()).strip("-")
    return results / "models" / plain


@dataclass(frozen=True)
class _Batch:
    images_b1ss: Tensor
    text_bl: Tensor
    text_mask_bl: Tensor
    meanings_b: Tensor
    draws_b2: Tensor
    prompt_bl: Tensor
    prompt_mask_bl: Tensor
    answer_bt: Tensor
    answer_mask_bt: Tensor


def _text_run(model: ZooEncoder, row: LanguageRow) -> Klip:
    if row.text_side is None:
        raise CheckpointError(
            f"{model.source} has no fusion and no decoder, so it cannot run {row.task}: name a RUN whose "
            "text side is put behind it, text_side = RUN in the suite's row"
        )
    return models.load(row.text_side)


def _copied(
    network: KlipNetwork,
    preprocess: Preprocess,
    tokenizer: models.Tokenizer,
    device: torch.device,
    tokens: int,
) -> Klip:
    network = copy.deepcopy(network)
    network.settings = network.settings.model_copy(update={"max_tokens": tokens})
    return Klip(network, preprocess, tokenizer, device)


def _batch(
    lessons: Sequence[TrainingExample], squares: Squares, model: Klip, rng: np.random.Generator
) -> _Batch:
    pad = model.tokenizer.pad
    chosen = [lesson.image for lesson in lessons]
    tensors = [
        model.preprocess.standardise(squares[chosen]),
        *pad([lesson.text for lesson in lessons]),
        torch.tensor([lesson.meaning for lesson in lessons]),
        torch.from_numpy(rng.random((len(lessons), 2))),
        *pad([lesson.prompt for lesson in lessons]),
        *pad([lesson.answer for lesson in lessons]),
    ]
    return _Batch(*(tensor.to(model.device) for tensor in tensors))


def _loss(network: KlipNetwork, batch: _Batch, losses: Sequence[Loss]) -> Tensor:
    network.clamp_temperature()
    tokens_bnw = network.image_tokens(batch.images_b1ss)
    memory = network.image_kv(tokens_bnw)
    parts = []
    if "itc" in losses or "itm" in losses:
        image_be = network.image_features(tokens_bnw).float()
        text_be = network.text_features(batch.text_bl, batch.text_mask_bl).float()
        nothing_qe, ids_b = image_be[:0], batch.meanings_b
        if "itc" in losses:
            parts.append(
                itc_loss(
                    *(image_be, text_be, image_be, text_be, ids_b, nothing_qe, nothing_qe, ids_b[:0]),
                    temperature=network.temperature,
                    alpha=0.0,
                )
            )
        if "itm" in losses:
            parts.append(_matching(network, batch, memory, image_be.detach(), text_be.detach()))
    if "mlm" in losses:
        context_bld = network.fuse(batch.prompt_bl, batch.prompt_mask_bl, memory)
        first_b1 = torch.full_like(batch.answer_bt[:, :1], network.special.cls_id)
        input_bt = torch.cat([first_b1, batch.answer_bt[:, :-1]], dim=1)
        logits_kv = network.decode_packed(
            input_bt, batch.answer_mask_bt, context_bld, batch.prompt_mask_bl, memory
        )
        parts.append(mlm_loss(logits_kv, batch.answer_bt[batch.answer_mask_bt.bool()]))
    return torch.stack(parts).sum()


def _matching(
    network: KlipNetwork,
    batch: _Batch,
    memory: CrossAttentionCache,
    image_be: Tensor,
    text_be: Tensor,
) -> Tensor:
    """Return ITM of true pairs, images with hard wrong texts, and texts with hard wrong images."""
    ids_b = batch.meanings_b
    with torch.no_grad():
        similarity_bb = image_be @ text_be.T / network.temperature
        wrong_text_b = hard_negatives(similarity_bb, ids_b, ids_b, batch.draws_b2[:, 0])
        wrong_image_b = hard_negatives(similarity_bb.T, ids_b, ids_b, batch.draws_b2[:, 1])
        # Where all texts of a batch mean the same there is no wrong pair.
        no_match = [torch.where(wrong_b >= 0, 0, IGNORED) for wrong_b in (wrong_text_b, wrong_image_b)]
        labels_p = torch.cat([torch.ones_like(ids_b), *no_match])
        wrong_text_b, wrong_image_b = wrong_text_b.clamp(min=0), wrong_image_b.clamp(min=0)
    texts_pl, masks_pl = (
        torch.cat([whole, whole[wrong_text_b], whole]) for whole in (batch.text_bl, batch.text_mask_bl)
    )
    logits_p2 = network.match_logits(texts_pl, masks_pl, memory.tiled(2) + memory.rows(wrong_image_b))
    return itm_loss(logits_p2, labels_p)
