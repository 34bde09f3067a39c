"""One step of training against the same step written out: losses, clipping, AdamW, momentum towers, queue."""

import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch

from fusar_klip.pretrain import PretrainSettings
from fusar_klip.pretrain.data.dataset import read_segments
from fusar_klip.pretrain.data.image_text_batches import ImageTextBatch
from fusar_klip.pretrain.data.loaders import prepare_run, read_loaders
from fusar_klip.pretrain.distributed import Ranks
from fusar_klip.pretrain.loss import PretrainLoss, batch_losses
from fusar_klip.pretrain.run_folder import RunFolder
from fusar_klip.pretrain.tasks.klip_train_state import KlipTrainState

MakeSettings = Callable[..., PretrainSettings]
PER_EPOCH = 4
RATE, DECAY, CLIP = 1e-3, 0.5, 0.25


@pytest.fixture
def begun(
    blobs: Path, nano_settings: MakeSettings, tmp_path: Path
) -> tuple[KlipTrainState, list[list[ImageTextBatch]]]:
    """A train_state after two steps, and the batches of the steps."""
    settings = nano_settings(
        architecture=nano_settings().architecture.model_dump() | {"gsd_embedding": True},
        contrast={"queue": 20, "momentum": 0.9, "alpha": 0.8},
        matching={"hard_share": 0.25},
        loss={"itc": 1.0, "itm": 0.5, "mlm": 2.0},
        optimizer={
            "lr": RATE, "warmup_steps": 0, "decay": 1.0, "weight_decay": DECAY, "clip_norm": CLIP
        },
    )  # fmt: skip
    folder, texts = RunFolder(tmp_path), read_segments(blobs, "v000")
    prepare_run(blobs, folder, settings, texts)
    loaders = read_loaders(blobs, folder, settings, texts, Ranks.single_process())
    batches = [loaders.train.micro_batches(step) for step in range(4)]
    with torch.random.fork_rng():
        train_state = KlipTrainState(settings, loaders.tokenizer, Ranks.single_process())
        for step in range(2):
            train_state.step(batches[step], step, PER_EPOCH)
    return train_state, batches


def test_a_step_follows_the_equations(begun: tuple[KlipTrainState, list[list[ImageTextBatch]]]) -> None:
    train_state, batches = begun
    (batch,) = batches[2]
    before = deepcopy((train_state.network, train_state.momentum, train_state.queue))
    network, momentum, queue = before
    optimizer = train_state._optimizer_step._optimizer
    states = {train_state._optimizer_step._names[p]: deepcopy(state) for p, state in optimizer.state.items()}
    with torch.random.fork_rng():
        report = train_state.step(batches[2], 2, PER_EPOCH)

    # Half of an epoch is done, and so is half of alpha's way.
    losses = batch_losses(PretrainLoss(network, hard_share=0.25), momentum, queue, batch, alpha=0.4)
    total = losses.by_name["itc"] + 0.5 * losses.by_name["itm"] + 2 * losses.by_name["mlm"]
    total.backward()
    assert report["loss"] == pytest.approx(total.item(), rel=1e-6)
    assert (report["lr"], report["skipped"]) == (RATE, 0)
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
    assert report["gradient_norm"] == pytest.approx(norm, rel=1e-5)
    assert norm > CLIP

    moved = dict(train_state.network.named_parameters())
    for name, weight in network.named_parameters():
        gradient, state = gradients[name] * CLIP / norm, states[name]
        mean = 0.9 * state["exp_avg"] + 0.1 * gradient
        square = 0.999 * state["exp_avg_sq"] + 0.001 * gradient.square()
        # Third step; matrices alone decay, not biases, norms and the temperature.
        kept = weight.detach() * (1 - RATE * DECAY if weight.ndim > 1 else 1)
        step = mean / (1 - 0.9**3) / ((square / (1 - 0.999**3)).sqrt() + 1e-8)
        torch.testing.assert_close(moved[name].detach(), kept - RATE * step, rtol=1e-4, atol=2e-6, msg=name)

    slow, slow_before = train_state.momentum, dict(momentum.named_parameters())
    for name, weight in slow.named_parameters():
        torch.testing.assert_close(weight, 0.9 * slow_before[name] + 0.1 * moved[name].detach())
    # The features that went into the loss, in the places of the oldest: 24 pairs have been seen, 20 are kept.
    image, text = momentum.features(batch.images, batch.text, batch.text_mask, batch.gsd_m)
    seen = torch.cat([part.tile_ids for step in range(3) for part in batches[step]])
    assert sorted(train_state.queue.ids_q.tolist()) == sorted(seen[-20:].tolist())
    for row, tile in enumerate(batch.tile_ids.tolist()):
        (places,) = (train_state.queue.ids_q == tile).nonzero(as_tuple=True)
        assert any(
            torch.allclose(train_state.queue.image_qe[place], image[row], atol=1e-5) for place in places
        )
        assert any(torch.allclose(train_state.queue.text_qe[place], text[row], atol=1e-5) for place in places)


def test_ground_spacing_embedding_is_trained(
    begun: tuple[KlipTrainState, list[list[ImageTextBatch]]],
) -> None:
    train_state, batches = begun
    embedding = train_state.network.image_tower.gsd_embedding
    assert embedding is not None
    assert batches[0][0].gsd_m.isfinite().any()
    assert batches[0][0].gsd_m.isnan().any()
    assert embedding.linear.weight.abs().sum() > 0
    assert embedding.unknown.abs().sum() > 0


def test_the_temperature_stays_in_its_bounds_after_a_step(
    begun: tuple[KlipTrainState, list[list[ImageTextBatch]]],
) -> None:
    train_state, batches = begun
    with torch.random.fork_rng():
        for start, bound in ((2.0, 0.5), (-20.0, 0.001)):
            train_state.network.log_temperature.data.fill_(start)
            train_state.step(batches[3], 3, PER_EPOCH)
            assert float(train_state.network.temperature.detach()) == pytest.approx(bound)
