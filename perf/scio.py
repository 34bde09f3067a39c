"""The cost of screening, compared with a literal Algorithm 1: equal decisions, time and FLOPs side by side.

The literal algorithm scores the whole text and each of its leave-one-out variants by itself. For each of them
it encodes image and text again, for the ITC loss and again for the ITM score, and it scores every segment.
(It computes the losses of the whole text once per text, not once per segment as line 5 could be read. The
network skips padding by itself, so padding costs the literal algorithm nothing.) Both share the features of
the negatives. The training epoch that a pass is compared with is one of this model on the same tiles.

    python perf/scio.py [--images 50] [--model small] [--data DATASET] [--device cpu]
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fusar_klip import load
from fusar_klip.catalog import read_texts, read_tiles, segments_by_tile
from fusar_klip.config import load_settings
from fusar_klip.files import write_json
from fusar_klip.models import Klip, open_tile_cache
from fusar_klip.pretrain import PretrainSettings, pretrain
from fusar_klip.scio import ImageBatch, ImageTextScorer, Negatives, ScioSettings, SegmentedText, screen
from fusar_klip.simulate import simulate
from fusar_klip.texts import describe
from fusar_klip.tiles import build

T = TypeVar("T")
Indices = tuple[int, ...]


class Literal:
    """Phase 2 of Algorithm 1 for one image and its text at a time."""

    def __init__(self, klip: Klip, negatives: Negatives) -> None:
        self._klip, self._negatives = klip, negatives

    def screen(self, image_1ss: Tensor, image_id: int, text: SegmentedText) -> Indices:
        """Return the indices of the noise of one text."""
        whole = list(text.used)
        if len(whole) < 2:
            return ()
        loss, score = self._loss(image_1ss, image_id, text, whole), self._score(image_1ss, text, whole)
        gain: dict[int, float] = {}
        for i in whole:
            rest = [other for other in whole if other != i]
            delta_itc = self._loss(image_1ss, image_id, text, rest) - loss
            delta_itm = self._score(image_1ss, text, rest) - score
            if delta_itc < 0 and delta_itm > 0:
                gain[i] = delta_itc
        noise = sorted(gain, key=gain.__getitem__)[: len(whole) - 1]
        while noise:
            left = [i for i in whole if i not in noise]
            if (
                self._loss(image_1ss, image_id, text, left) < loss
                and self._score(image_1ss, text, left) > score
            ):
                break
            noise.pop()
        return tuple(sorted(noise))

    def _ids(self, text: SegmentedText, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        tokenizer, device = self._klip.tokenizer, self._klip.device
        ids_1l, mask_1l = tokenizer.pad([tokenizer.join(text.segments[i] for i in indices)])
        return ids_1l.to(device), mask_1l.to(device)

    def _loss(self, image_1ss: Tensor, image_id: int, text: SegmentedText, indices: Sequence[int]) -> float:
        network, negatives = self._klip.network, self._negatives
        image_1e = network.image_features(network.image_tokens(image_1ss[None]))
        text_1e = network.text_features(*self._ids(text, indices))
        own = float(image_1e @ text_1e.T / network.temperature)
        other_q = negatives.ids_q != image_id
        losses = []
        for query_1e, candidates_qe in ((image_1e, negatives.text_qe), (text_1e, negatives.image_qe)):
            logits_q = (query_1e @ candidates_qe[other_q].T / network.temperature)[0]
            everything = torch.cat([logits_q.new_tensor([own]), logits_q])
            losses.append(float(everything.logsumexp(0)) - own)
        return sum(losses) / 2

    def _score(self, image_1ss: Tensor, text: SegmentedText, indices: Sequence[int]) -> float:
        network = self._klip.network
        image_kv = network.image_kv(network.image_tokens(image_1ss[None]))
        return float(network.match_logits(*self._ids(text, indices), image_kv).softmax(1)[0, 1])


def batched(
    klip: Klip, negatives: Negatives, images: Tensor, ids: Sequence[int], texts: list[SegmentedText]
) -> list[Indices]:
    """Return the indices of the noise of each text, as `refine` computes them."""
    settings, noise = ScioSettings(), list[Indices]()
    for start in range(0, len(texts), settings.images_per_block):
        part = slice(start, start + settings.images_per_block)
        batch = ImageBatch(images[part], ids[part])
        scorer = ImageTextScorer(klip.network, klip.tokenizer, batch, negatives)
        noise += [result.noise for result in screen(scorer, texts[part], settings)]
    return noise


def timed(work: Callable[[], T], device: torch.device) -> tuple[T, float]:
    """Return the result of `work`, and its duration in seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return result, time.perf_counter() - began


def flops(work: Callable[[], object]) -> int:
    """Return the FLOPs of the matrix products of `work`."""
    # The counter counts the matrix products of unfused attention, but not every fused kernel.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def train_a_little(dataset: Path, run: Path, model: str, steps: int, batch: int, device: str) -> float:
    """Train the model that screens; return its samples per second without the warm-up step."""
    options = [
        f"model={model}",
        f"batch_size={batch}",
        f"max_steps={steps}",
        "log_every=1",
        f"device={device}",
    ]
    options += [
        "texts.min_segments=8",
        "optimizer.warmup_steps=1",
        "optimizer.lr=1e-4",
        "validate_every=100000",
    ]
    pretrain(dataset, run, load_settings(PretrainSettings, None, options))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["samples_per_s"] for line in lines if "loss" in line][1:]
    return float(len(speeds) / sum(1 / speed for speed in speeds))


def compare(
    dataset: Path, run: Path, count: int, pairs: int, samples_per_s: float, device: str
) -> dict[str, float]:
    """Screen `count` tiles with both algorithms, against `pairs` negatives; return the measurements."""
    klip = load(run, device)
    segments_of = segments_by_tile(read_texts(dataset))
    cache = open_tile_cache(dataset, klip.preprocess.size)
    tiles = [t for t in read_tiles(dataset, ["tile_id"])["tile_id"] if t in segments_of and t in cache.rows]
    rows = [cache.rows[t] for t in tiles]
    max_tokens = klip.network.settings.max_tokens
    texts = [
        SegmentedText(segments, (True,) * len(segments))
        for segments in (klip.tokenizer.segments(segments_of[t], max_tokens) for t in tiles)
    ]
    images = klip.preprocess.standardise(cache.images[rows]).to(klip.device)

    def batches(stop: int) -> list[tuple[ImageBatch, list[list[int]]]]:
        return [
            (
                ImageBatch(images[start : min(start + 32, stop)], rows[start : min(start + 32, stop)]),
                [klip.tokenizer.join(text.segments) for text in texts[start : min(start + 32, stop)]],
            )
            for start in range(0, stop, 32)
        ]

    negatives = Negatives.encode(klip.network, klip.tokenizer, batches(min(len(texts), pairs)))
    literal = Literal(klip, negatives)

    def slow(stop: int) -> list[Indices]:
        return [literal.screen(images[i], rows[i], texts[i]) for i in range(stop)]

    def fast(stop: int) -> list[Indices]:
        return batched(klip, negatives, images[:stop], rows[:stop], texts[:stop])

    with torch.inference_mode():
        for work in (slow, fast):
            work(2)
        counted = min(count, 10)
        ratio = flops(lambda: slow(counted)) / flops(lambda: fast(counted))
        found_fast, fast_s = timed(lambda: fast(count), klip.device)
        found_slow, slow_s = timed(lambda: slow(count), klip.device)
    assert found_fast == found_slow, "the decisions differ"
    return {
        "images": count,
        "segments": sum(len(text.segments) for text in texts[:count]),
        "noise": sum(map(len, found_fast)),
        "literal_s_per_image": slow_s / count,
        "ours_s_per_image": fast_s / count,
        "speed_ratio": slow_s / fast_s,
        "flop_ratio": ratio,
        "training_s_per_image": 1 / samples_per_s,
        "share_of_an_epoch": fast_s / count * samples_per_s,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--model", default="small")
    parser.add_argument("--data", type=Path, help="a data set with texts; default: simulated")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--references", type=int, default=128, help="number of negatives")
    parser.add_argument("--steps", type=int, default=4, help="training steps; all but the first are timed")
    parser.add_argument("--batch", type=int, default=16, help="tiles per training step")
    parser.add_argument("--out", type=Path, default=Path("perf/scio.json"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = options.data or folder / "dataset"
        if options.data is None:
            simulate(folder / "scenes", scenes=2, size=2048, seed=0)
            build(sorted((folder / "scenes").glob("*.tif")), dataset)
            describe(dataset)
        run = folder / "run"
        speed = train_a_little(dataset, run, options.model, options.steps, options.batch, options.device)
        result = compare(dataset, run, options.images, options.references, speed, options.device)
    print(f"{options.model} on {options.device}, {torch.get_num_threads()} threads\n")
    print("| Measure | Value |\n|---|---|")
    for name, value in result.items():
        print(f"| {name} | {value:.3g} |")
    write_json(options.out, {"model": options.model, "device": options.device, **result})


if __name__ == "__main__":
    main()
