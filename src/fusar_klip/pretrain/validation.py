"""Validation of the `klip` task: losses and retrieval recall on the validation tiles."""

import numpy as np
import numpy.typing as npt
import torch

from fusar_klip.models import Klip, KlipNetwork
from fusar_klip.models.network.queue import FeatureQueue
from fusar_klip.pretrain.data.dataset import ImageTextTiles
from fusar_klip.pretrain.data.image_text_batches import ImageTextBatches
from fusar_klip.pretrain.data.loaders import Loaders
from fusar_klip.pretrain.loss import LOSSES, PretrainLoss, batch_losses
from fusar_klip.pretrain.tasks.klip_train_state import KlipTrainState

# Retrieval uses at most this many tiles, so that runs on data sets of different size can be compared.
MAX_TILES = 1000
# Validation batches whose losses are averaged.
_LOSS_BATCHES = 8
# Tiles or texts per forward pass.
_EMBEDDED = 64


def validate(train_state: KlipTrainState, loaders: Loaders) -> dict[str, float]:
    """Return the losses, and the recall in both directions on the first `MAX_TILES` validation tiles.

    `val_recall` is the mean of R@1, R@5 and R@10 in both directions; it chooses the best weights. It is
    higher with fewer tiles: read it beside `val_tiles` and `val_chance`, the chance level of R@1.

    Args:
        train_state: The state of training; not changed.
        loaders: With validation batches of whole texts.
    """
    assert loaders.val is not None
    with train_state.unsharded_network() as network:
        klip = Klip(network, loaders.preprocess, loaders.tokenizer, train_state.device)
        # All processes compute the losses together; only the first computes retrieval.
        values = _losses(train_state, network, loaders.val)
        return train_state.ranks.run_in_first(lambda: values | _recalls(klip, loaders.val_tiles))


def _recalls(klip: Klip, tiles: ImageTextTiles) -> dict[str, float]:
    values: dict[str, float] = {}
    count = min(len(tiles), MAX_TILES)
    image_ne, text_ne = _embed_images(klip, tiles, count), _embed_texts(klip, tiles, count)
    recalls = []
    for name, similarity_nn in (("i2t", image_ne @ text_ne.T), ("t2i", text_ne @ image_ne.T)):
        for k, value in recall_at(similarity_nn).items():
            values[f"val_{name}_r{k}"] = value
            recalls.append(value)
    values["val_recall"] = float(np.mean(recalls))
    values["val_chance"] = 1 / count
    values["val_tiles"] = count
    return values


@torch.inference_mode()
def _losses(train_state: KlipTrainState, network: KlipNetwork, batches: ImageTextBatches) -> dict[str, float]:
    """Return the mean losses without queue and distillation; masks and negatives are always the same."""
    pretrain_loss = PretrainLoss(network, hard_share=train_state.settings.matching.hard_share).eval()
    no_queue = FeatureQueue(0, network.settings.embed_dim, train_state.device)
    rows = []
    for step in range(min(batches.steps_per_epoch, _LOSS_BATCHES)):
        (batch,) = batches.micro_batches(step)
        losses = batch_losses(
            pretrain_loss, train_state.momentum, no_queue, batch.to(train_state.device), alpha=0.0
        )
        rows.append(losses.values())
    means = train_state.ranks.mean(torch.stack(rows).mean(0)).tolist()
    return {f"val_loss_{name}": mean for name, mean in zip(LOSSES, means, strict=True)}


@torch.inference_mode()
def _embed_images(klip: Klip, tiles: ImageTextTiles, count: int) -> np.ndarray:
    """As `Klip.embed_image`, but with the ground spacing as a second input, as in training."""
    batches = []
    for start in range(0, count, _EMBEDDED):
        selection = slice(start, min(start + _EMBEDDED, count))
        pixels = klip.preprocess.standardise(tiles.images[tiles.rows[selection]])
        class_bw = klip.network.image_tower.class_tokens(
            pixels.to(klip.device), torch.from_numpy(tiles.gsd_m[selection]).to(klip.device)
        )
        batches.append(klip.network.image_features(class_bw[:, None]).float().cpu())
    features: np.ndarray = torch.cat(batches).numpy()
    return features


@torch.inference_mode()
def _embed_texts(klip: Klip, tiles: ImageTextTiles, count: int) -> np.ndarray:
    batches = []
    for start in range(0, count, _EMBEDDED):
        texts = [klip.tokenizer.join(tiles.segments[i]) for i in range(start, min(start + _EMBEDDED, count))]
        ids_bl, mask_bl = klip.tokenizer.pad(texts)
        batches.append(
            klip.network.text_features(ids_bl.to(klip.device), mask_bl.to(klip.device)).float().cpu()
        )
    features: np.ndarray = torch.cat(batches).numpy()
    return features


def recall_at(similarity_nn: npt.NDArray[np.float32], ks: tuple[int, ...] = (1, 5, 10)) -> dict[int, float]:
    """Return the share of rows whose own column is among the k most similar, for each k, in 0 to 1.

    Args:
        similarity_nn: (N, N); row i belongs to column i. A column as similar as the own one is ranked before
            it, so that a model with equal similarities everywhere scores 0 and not 1.
        ks: Numbers of most similar columns.
    """
    own_n1 = np.diagonal(similarity_nn)[:, None]
    # The own column is as similar as itself, hence ranks start at 1.
    rank_n = (similarity_nn >= own_n1).sum(1)
    return {k: float((rank_n <= k).mean()) if len(rank_n) else 0.0 for k in ks}
