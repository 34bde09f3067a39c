"""Fine-tuning of a copy of the whole model on images with texts (paper 4.4, table 5).

- ITC within the batch, without queue and momentum encoders: those pay off over tens of thousands of steps.
  Texts that mean the same are positives of each other's images, never negatives.
- ITM of positive pairs against one hard negative text for each image and one hard negative image for each
  text.
- Text generation (the paper's MLM): the encoder reads a prompt with [MASK] together with the image, the
  decoder generates the text at the [MASK], as in pretraining. A caption's prompt is [MASK] alone, an answer's
  is the question and [MASK].

The loop is `training_loop.py`'s.

Letters: B batch, P pairs, L text tokens, T decoder tokens, E features, S image side.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fusar_klip.datasets.label_texts.language_data import LanguageData
from fusar_klip.finetune.language.examples import EXAMPLES, TextKind, TrainingExample
from fusar_klip.finetune.language.settings import LanguageSettings, Loss
from fusar_klip.finetune.language.text_side import ImageTowerAdapter, copy_with_text_side
from fusar_klip.finetune.resized_images import ResizedImages
from fusar_klip.finetune.training_loop import FinetuneJob, parameter_groups, run_training, seeded
from fusar_klip.models import Klip, KlipNetwork, VisionEncoder
from fusar_klip.models.losses import IGNORE_INDEX, itc_loss, itm_loss, mlm_loss, sample_hard_negatives
from fusar_klip.models.network.cross_attention import CrossAttentionCache

logger = logging.getLogger(__name__)


def train_language(
    model: VisionEncoder,
    images_nss: ResizedImages,
    data: LanguageData,
    settings: LanguageSettings,
    texts: TextKind,
) -> Klip:
    """Return a copy of the model, fine-tuned on the training part; the model itself is not changed.

    Args:
        model: The pretrained model.
        images_nss: (N, S, S) uint8, all images of the data set at the model's size.
        data: The images' captions and questions.
        settings: The schedule, the losses and the text side.
        texts: Whether the model learns the captions or the questions.

    Raises:
        CheckpointError: The model has no text side, and the settings name none.
    """
    with seeded(settings.seed, model.device):
        trained = copy_with_text_side(model, settings)
        network = trained.network
        examples, steps_per_epoch = EXAMPLES[texts](data, trained.tokenizer, settings)

        def batches(epoch: int) -> Iterator[_Batch]:
            rng = np.random.default_rng([settings.seed, epoch])
            for batch in examples(epoch):
                yield _batch(batch, images_nss, trained, rng)

        tower = network.image_tower
        groups = parameter_groups(
            tower.tower if isinstance(tower, ImageTowerAdapter) else tower,
            [],
            settings.weight_decay,
            settings.layer_decay,
        )
        rest = [p for name, p in network.named_parameters() if not name.startswith("image_tower.")]
        groups += [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        job = FinetuneJob(
            network, groups, batches, steps_per_epoch, lambda batch: _loss(network, batch, settings.losses)
        )
        losses = run_training(job, settings, f"Fine-tuning on {texts}, epochs")
    logger.info("%s: the loss on %s fell from %.4f to %.4f", data.size_summary, texts, losses[0], losses[-1])
    return trained


@dataclass(frozen=True)
class _Batch:
    images_b1ss: Tensor
    text_bl: Tensor
    text_mask_bl: Tensor
    text_ids_b: Tensor
    draws_b2: Tensor
    prompt_bl: Tensor
    prompt_mask_bl: Tensor
    answer_bt: Tensor
    answer_mask_bt: Tensor


def _batch(
    examples: Sequence[TrainingExample], images_nss: ResizedImages, model: Klip, rng: np.random.Generator
) -> _Batch:
    pad = model.tokenizer.pad
    tensors = [
        model.preprocess.standardise(images_nss[[example.image for example in examples]]),
        *pad([example.text for example in examples]),
        torch.tensor([example.text_id for example in examples]),
        torch.from_numpy(rng.random((len(examples), 2))),
        *pad([example.prompt for example in examples]),
        *pad([example.answer for example in examples]),
    ]
    return _Batch(*(tensor.to(model.device) for tensor in tensors))


def _loss(network: KlipNetwork, batch: _Batch, losses: Sequence[Loss]) -> Tensor:
    """Return the sum of a batch's losses, in equal weights."""
    network.clamp_temperature()
    tokens_bnw = network.image_tokens(batch.images_b1ss)
    image_kv = network.image_kv(tokens_bnw)
    parts = []
    if "itc" in losses or "itm" in losses:
        image_be = network.image_features(tokens_bnw).float()
        text_be = network.text_features(batch.text_bl, batch.text_mask_bl).float()
        empty_queue_qe, ids_b = image_be[:0], batch.text_ids_b
        if "itc" in losses:
            parts.append(
                itc_loss(
                    *(image_be, text_be, image_be, text_be, ids_b, empty_queue_qe, empty_queue_qe, ids_b[:0]),
                    temperature=network.temperature,
                    alpha=0.0,
                )
            )
        if "itm" in losses:
            parts.append(_itm_loss(network, batch, image_kv, image_be.detach(), text_be.detach()))
    if "mlm" in losses:
        context_bld = network.fuse(batch.prompt_bl, batch.prompt_mask_bl, image_kv)
        first_b1 = torch.full_like(batch.answer_bt[:, :1], network.special.cls_id)
        input_bt = torch.cat([first_b1, batch.answer_bt[:, :-1]], dim=1)
        logits_kv = network.decode_packed(
            input_bt, batch.answer_mask_bt, context_bld, batch.prompt_mask_bl, image_kv
        )
        parts.append(mlm_loss(logits_kv, batch.answer_bt[batch.answer_mask_bt.bool()]))
    return torch.stack(parts).sum()


def _itm_loss(
    network: KlipNetwork,
    batch: _Batch,
    image_kv: CrossAttentionCache,
    image_be: Tensor,
    text_be: Tensor,
) -> Tensor:
    """Return ITM of positive pairs, images with hard negative texts, and texts with hard negative images."""
    ids_b = batch.text_ids_b
    with torch.no_grad():
        similarity_bb = image_be @ text_be.T / network.temperature
        negative_text_b = sample_hard_negatives(similarity_bb, ids_b, ids_b, batch.draws_b2[:, 0])
        negative_image_b = sample_hard_negatives(similarity_bb.T, ids_b, ids_b, batch.draws_b2[:, 1])
        # Where all texts of a batch mean the same there is no negative pair.
        no_match = [
            torch.where(negative_b >= 0, 0, IGNORE_INDEX)
            for negative_b in (negative_text_b, negative_image_b)
        ]
        labels_p = torch.cat([torch.ones_like(ids_b), *no_match])
        negative_text_b, negative_image_b = negative_text_b.clamp(min=0), negative_image_b.clamp(min=0)
    texts_pl, masks_pl = (
        torch.cat([whole, whole[negative_text_b], whole]) for whole in (batch.text_bl, batch.text_mask_bl)
    )
    logits_p2 = network.match_logits(texts_pl, masks_pl, image_kv.tiled(2) + image_kv.rows(negative_image_b))
    return itm_loss(logits_p2, labels_p)
