"""What a model in training does with tiles that it does not learn from."""

import numpy as np
import torch

from fusar_klip.models import Klip, KlipNetwork
from fusar_klip.models.network.queue import FeatureQueue
from fusar_klip.models.retrieval import recall_at
from fusar_klip.pretrain.data.batches import Batches
from fusar_klip.pretrain.data.dataset import TextedTiles
from fusar_klip.pretrain.data.loaders import Materials
from fusar_klip.pretrain.loss import Objective, batch_losses
from fusar_klip.pretrain.tasks.klip_train_state import Learner

# Retrieval is among this many tiles at most, so that runs on data sets of any size can be compared.
MAX_TILES = 1000
# Batches whose losses are averaged.
_LOSS_BATCHES = 8
# Tiles or texts that are embedded at a time.
_EMBEDDED = 64


def validate(learner: Learner, materials: Materials) -> dict[str, float]:
    """Return the losses and the recall of both directions on the first `MAX_TILES` of the validation tiles.

    `val_recall` is the mean of R@1, R@5 and R@10 of both directions: what the best weights are chosen by. It
    grows as the tiles get fewer; `val_tiles` and `val_chance` (of R@1) say how to read it.

    Args:
        learner: The training's state; left as it is.
        materials: With validation batches, whole texts.
    """
    assert materials.val is not None
    with learner.whole_network() as network:
        klip = Klip(network, materials.preprocess, materials.tokenizer, learner.device)
        # The losses look across the processes, each of which has its share; retrieval is the first one's.
        values = _losses(learner, network, materials.val)
        return learner.ranks.first_does(lambda: values | _recalls(klip, materials.val_tiles))


def _recalls(klip: Klip, tiles: TextedTiles) -> dict[str, float]:
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
def _losses(learner: Learner, network: KlipNetwork, batches: Batches) -> dict[str, float]:
    """Return the mean losses: no queue, no distillation, and the same masks and negatives every time."""
    objective = Objective(network, hard_share=learner.settings.matching.hard_share).eval()
    no_queue = FeatureQueue(0, network.settings.embed_dim, learner.device)
    rows = []
    for step in range(min(batches.steps_per_epoch, _LOSS_BATCHES)):
        (batch,) = batches.at(step)
        losses = batch_losses(objective, learner.momentum, no_queue, batch.to(learner.device), alpha=0.0)
        rows.append(torch.stack([losses.itc, losses.itm, losses.mlm]))
    itc, itm, mlm = learner.ranks.mean(torch.stack(rows).mean(0)).tolist()
    return {"val_loss_itc": itc, "val_loss_itm": itm, "val_loss_mlm": mlm}


@torch.inference_mode()
def _embed_images(klip: Klip, tiles: TextedTiles, count: int) -> np.ndarray:
    """As `Klip.embed_image`, but that a tower which listens is told the ground spacing, as in training."""
    parts = []
    for start in range(0, count, _EMBEDDED):
        chosen = slice(start, min(start + _EMBEDDED, count))
        pixels = klip.preprocess.standardise(tiles.images[tiles.rows[chosen]])
        class_bw = klip.network.image_tower.class_tokens(
            pixels.to(klip.device), torch.from_numpy(tiles.gsd_m[chosen]).to(klip.device)
        )
        parts.append(klip.network.image_features(class_bw[:, None]).float().cpu())
    features: np.ndarray = torch.cat(parts).numpy()
    return features


@torch.inference_mode()
def _embed_texts(klip: Klip, tiles: TextedTiles, count: int) -> np.ndarray:
    parts = []
    for start in range(0, count, _EMBEDDED):
        texts = [klip.tokenizer.join(tiles.segments[i]) for i in range(start, min(start + _EMBEDDED, count))]
        ids_bl, mask_bl = klip.tokenizer.pad(texts)
        parts.append(
            klip.network.text_features(ids_bl.to(klip.device), mask_bl.to(klip.device)).float().cpu()
        )
    features: np.ndarray = torch.cat(parts).numpy()
    return features
