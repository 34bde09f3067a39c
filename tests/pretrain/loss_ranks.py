"""One process of a distributed run, for test_pretrain_loss: losses and gradients of its rows.

python loss_ranks.py RANK PROCESSES STORE OUT FUSION_LAYERS
"""

import sys

import torch
import torch.distributed as dist

from fusar_klip.models import KlipNetwork, ModelSettings, Tokenizer
from fusar_klip.models.losses import IGNORE_INDEX
from fusar_klip.models.network.momentum import MomentumTowers
from fusar_klip.models.network.queue import FeatureQueue
from fusar_klip.pretrain.data.image_text_batches import ImageTextBatch
from fusar_klip.pretrain.loss import Losses, PretrainLoss

SETTINGS = ModelSettings(
    image_size=16, patch_size=8, image_width=16, image_depth=2, image_heads=2, text_width=16, text_depth=2,
    text_heads=2, text_dropout=0.0, embed_dim=8, max_tokens=32,
)  # fmt: skip
WORDS = Tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(20))])


def make_network(fusion_layers: int | None) -> KlipNetwork:
    torch.manual_seed(1)
    network = KlipNetwork(SETTINGS.model_copy(update={"fusion_layers": fusion_layers}), WORDS)
    with torch.no_grad():
        for parameter in network.parameters():
            # Fresh weights give features that are all alike: then all negatives are, and no mistake shows.
            parameter.add_(0.2 * torch.randn(parameter.shape))
        network.log_temperature.fill_(-1.5)
    return network


def make_batch(ids: list[int], first_step: int = 0) -> ImageTextBatch:
    """Rows that follow from their tile's number alone, padded to the longest of these rows."""
    texts, masked, hidden, images, draws = [], [], [], [], []
    for tile in ids:
        g = torch.Generator().manual_seed(1000 * first_step + tile)
        lengths = torch.randint(1, 9, (3,), generator=g).tolist()
        text, shown, spans = (torch.randint(5, 25, (n,), generator=g).tolist() for n in lengths)
        texts.append([WORDS.cls_id, *text, WORDS.sep_id])
        masked.append([WORDS.cls_id, *shown, WORDS.mask_id, WORDS.sep_id])
        hidden.append([*spans, WORDS.sep_id])
        images.append(torch.randn(1, 16, 16, generator=g))
        draws.append(torch.rand(2, generator=g))
    labels, label_mask = WORDS.pad(hidden)
    return ImageTextBatch(
        images=torch.stack(images),
        tile_ids=torch.tensor(ids),
        gsd_m=torch.full((len(ids),), torch.nan),
        draws=torch.stack(draws),
        text=WORDS.pad(texts)[0],
        text_mask=WORDS.pad(texts)[1],
        masked=WORDS.pad(masked)[0],
        masked_mask=WORDS.pad(masked)[1],
        decoder_input=WORDS.pad([[WORDS.cls_id, *spans[:-1]] for spans in hidden])[0],
        decoder_labels=labels.masked_fill(label_mask == 0, IGNORE_INDEX),
    )


def make_queue() -> FeatureQueue:
    g = torch.Generator().manual_seed(7)
    queue = FeatureQueue(6, 8)
    features = torch.nn.functional.normalize(torch.randn(2, 5, 8, generator=g), dim=-1)
    queue.enqueue(features[0], features[1], torch.tensor([3, 50, 51, 5, 52]))
    return queue


def losses_of(
    network: KlipNetwork,
    batch: ImageTextBatch,
    alpha: float = 0.4,
    queue: FeatureQueue | None = None,
    hard_share: float = 1.0,
) -> Losses:
    queue = queue if queue is not None else make_queue()
    torch.manual_seed(2)
    momentum = MomentumTowers(make_network(network.settings.fusion_layers))
    image, text = momentum.features(batch.images, batch.text, batch.text_mask)
    pretrain_loss = PretrainLoss(network, hard_share=hard_share)
    losses: Losses = pretrain_loss(batch, image, text, queue.image_qe, queue.text_qe, queue.ids_q, alpha)
    return losses


def main() -> None:
    rank, processes, store, out, fusion_layers = sys.argv[1:]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=int(rank), world_size=int(processes))
    network = make_network(int(fusion_layers) or None)
    ids = [4, 9, 3, 7, 8, 5]
    share = len(ids) // int(processes)
    losses = losses_of(network, make_batch(ids[int(rank) * share : (int(rank) + 1) * share]))
    values = torch.stack([*losses.by_name.values()])
    values.sum().backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    for tensor in (values.detach_(), *gradients.values()):
        dist.all_reduce(tensor)
        tensor /= int(processes)
    if rank == "0":
        found = {"values": values, "gradients": gradients, "ids": losses.ids, "text": losses.momentum_text}
        torch.save(found, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
