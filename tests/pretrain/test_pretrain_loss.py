"""The objective of a whole batch: against its parts one by one, and divided among processes."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import loss_ranks as ranks
import pytest
import torch
import torch.nn.functional as F

from fusar_klip.models.losses import IGNORE_INDEX, sample_hard_negatives
from fusar_klip.models.network.momentum import MomentumTowers
from fusar_klip.models.network.queue import FeatureQueue
from fusar_klip.pretrain.loss import batch_losses
from fusar_klip.pretrain.settings import LossSettings

IDS = [4, 9, 3, 7, 8, 5]
fusions = pytest.mark.parametrize("fusion_layers", [None, 1])


@pytest.mark.parametrize("hard_share", [1.0, 0.2])
@fusions
@torch.no_grad()
def test_losses_equal_those_computed_pair_by_pair(fusion_layers: int | None, hard_share: float) -> None:
    network = ranks.make_network(fusion_layers).eval()
    batch, queue = ranks.make_batch(IDS), FeatureQueue(0, 8)
    losses = ranks.losses_of(network, batch, alpha=0.0, queue=queue, hard_share=hard_share)
    rows = [ranks.make_batch([tile]) for tile in IDS]
    tokens = [network.image_tokens(row.images) for row in rows]
    image = torch.cat([network.image_features(one) for one in tokens])
    text = torch.cat([network.text_features(row.text, row.text_mask) for row in rows])
    similarity = image.float() @ text.float().T / network.temperature
    ids = batch.tile_ids, batch.tile_ids
    wrong_text = sample_hard_negatives(similarity, *ids, batch.draws[:, 0], None, hard_share).tolist()
    wrong_image = sample_hard_negatives(similarity.T, *ids, batch.draws[:, 1], None, hard_share).tolist()
    itm, mlm = [], []
    for place, row in enumerate(rows):
        for words, look, label in (
            (row, tokens[place], 1),
            (rows[wrong_text[place]], tokens[place], 0),
            (row, tokens[wrong_image[place]], 0),
        ):
            logits = network.match_logits(words.text, words.text_mask, network.image_kv(look))
            itm.append(F.cross_entropy(logits, torch.tensor([label])).item())
        memory = network.image_kv(tokens[place])
        context = network.fuse(row.masked, row.masked_mask, memory)
        logits = network.decode(row.decoder_input, context, row.masked_mask, memory)
        mlm += F.cross_entropy(logits[0], row.decoder_labels[0], reduction="none").tolist()
    assert losses.by_name["itm"].item() == pytest.approx(sum(itm) / len(itm), rel=1e-5)
    assert losses.by_name["mlm"].item() == pytest.approx(sum(mlm) / len(mlm), rel=1e-5)
    assert len({*wrong_text}) > 1
    weights = LossSettings(itc=2.0, itm=0.5, mlm=0.0)
    expected = 2 * losses.by_name["itc"].item() + 0.5 * losses.by_name["itm"].item()
    assert float(losses.total(weights)) == pytest.approx(expected)


@torch.no_grad()
def test_equal_texts_of_other_images_are_not_negatives() -> None:
    network, batch = ranks.make_network(None).eval(), ranks.make_batch(IDS)
    queue = FeatureQueue(0, 8)
    # All six say what the first says: nothing is left that could be wrong.
    alike = replace(batch, text=batch.text[:1].expand(6, -1), text_mask=batch.text_mask[:1].expand(6, -1))
    tokens = network.image_tokens(batch.images)
    logits = network.match_logits(alike.text, alike.text_mask, network.image_kv(tokens))
    expected = F.cross_entropy(logits, torch.ones(6, dtype=torch.int64))
    found = ranks.losses_of(network, alike, alpha=0.0, queue=queue)
    torch.testing.assert_close(found.by_name["itm"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("fusion_layers", [0, 1])
def test_two_processes_are_one(fusion_layers: int, tmp_path: Path) -> None:
    script, out = Path(ranks.__file__), tmp_path / "out.pt"
    arguments = [sys.executable, str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(script.parent)}
    running = [
        subprocess.Popen(
            [*arguments, str(rank), "2", str(tmp_path / "store"), str(out), str(fusion_layers)],
            env=environment,
        )
        for rank in range(2)
    ]
    assert [process.wait(300) for process in running] == [0, 0]
    found = torch.load(out)
    network = ranks.make_network(fusion_layers or None)
    losses = ranks.losses_of(network, ranks.make_batch(IDS))
    values = torch.stack([*losses.by_name.values()])
    values.sum().backward()
    torch.testing.assert_close(found["values"], values.detach(), rtol=1e-5, atol=1e-6)
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    assert gradients.keys() == found["gradients"].keys()
    assert len(gradients) == len(list(network.parameters()))
    for name, gradient in gradients.items():
        torch.testing.assert_close(found["gradients"][name], gradient, rtol=1e-5, atol=1e-6, msg=name)
    assert found["ids"].tolist() == IDS
    torch.testing.assert_close(found["text"], losses.momentum_text)


@fusions
def test_one_image_has_no_negative_pairs(fusion_layers: int | None) -> None:
    network = ranks.make_network(fusion_layers)
    batch = ranks.make_batch([4])
    losses = ranks.losses_of(network, batch)
    logits = network.match_logits(
        batch.text, batch.text_mask, network.image_kv(network.image_tokens(batch.images))
    )
    assert losses.by_name["itm"].item() == pytest.approx(-logits.log_softmax(1)[0, 1].item(), rel=1e-5)
    # Twice the same image: still none.
    twice = ranks.losses_of(network, ranks.make_batch([4, 4]))
    assert twice.by_name["itm"].item() == pytest.approx(losses.by_name["itm"].item(), rel=1e-5)
    (losses.by_name["itc"] + losses.by_name["itm"] + losses.by_name["mlm"]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_a_text_without_masked_spans_adds_no_loss() -> None:
    network = ranks.make_network(None)
    batch = ranks.make_batch([4, 9])
    labels = batch.decoder_labels.clone()
    labels[0] = IGNORE_INDEX
    losses = ranks.losses_of(network, replace(batch, decoder_labels=labels))
    assert losses.by_name["mlm"].item() == pytest.approx(
        ranks.losses_of(network, ranks.make_batch([9])).by_name["mlm"].item(), rel=1e-5
    )
    losses.by_name["mlm"].backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    nothing = ranks.losses_of(network, replace(batch, decoder_labels=torch.full_like(labels, IGNORE_INDEX)))
    assert nothing.by_name["mlm"].item() == 0
    # Each weight has a gradient all the same: the other processes wait for it.
    network.zero_grad()
    (nothing.by_name["itc"] + nothing.by_name["itm"] + nothing.by_name["mlm"]).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_an_ignored_label_is_still_decoder_input() -> None:
    """Noise in the middle of what is written is no target, and what comes after it is predicted as before."""
    network = ranks.make_network(None)
    batch = ranks.make_batch([4])
    assert batch.decoder_labels.shape[1] >= 3
    labels = batch.decoder_labels.clone()
    labels[0, 0] = IGNORE_INDEX
    memory = network.image_kv(network.image_tokens(batch.images))
    context = network.fuse(batch.masked, batch.masked_mask, memory)
    logits = network.decode(batch.decoder_input, context, batch.masked_mask, memory)
    expected = F.cross_entropy(logits[0], labels[0]).item()
    assert ranks.losses_of(network, replace(batch, decoder_labels=labels)).by_name[
        "mlm"
    ].item() == pytest.approx(expected, rel=1e-5)


def test_momentum_features_are_returned_for_the_queue() -> None:
    network = ranks.make_network(None)
    momentum, queue, batch = MomentumTowers(network), ranks.make_queue(), ranks.make_batch(IDS)
    before = [queue.image_qe.clone(), queue.ids_q.clone()]
    objective = ranks.PretrainLoss(network)
    losses = batch_losses(objective, momentum, queue, batch, alpha=0.4)
    image, text = momentum.features(batch.images, batch.text, batch.text_mask)
    torch.testing.assert_close(losses.momentum_image, image.float())
    torch.testing.assert_close(losses.momentum_text, text.float())
    assert losses.ids.tolist() == IDS
    assert not losses.momentum_image.requires_grad
    assert torch.equal(queue.image_qe, before[0])
    assert torch.equal(queue.ids_q, before[1])
    assert math.isfinite(losses.by_name["itc"].item())
