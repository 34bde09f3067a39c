"""Speed and memory of a training step, compared with the same mathematics implemented as in ALBEF and BLIP.

A step is forward, backward, gradient clipping, optimizer, momentum encoders and queue. Three implementations:

- `ours`: the mathematics of the `paper` preset, as `fusar-klip pretrain` runs it;
- `fast`: the `fast` preset, in which the last half of the text layers are fusion layers (ALBEF);
- `plain`: the mathematics of the `paper` preset again, see pretrain_plain.py.

First the script checks that the losses and all gradients of `ours` and `plain` are equal, with dropout 0.
Then each implementation runs in its own process, on the same batches, so that its peak memory is its own.
Time is the median over the steps; CPU time is also reported, for machines that run other work.

Texts are eight segments of random words. Their lengths are drawn from a log-normal distribution of mean 13.6
and standard deviation 6.3 tokens: the segments of `describe`'s texts have 13.7 and 6.2 on simulated scenes,
14.4 and 6.5 on Los Angeles (`Tokenizer.train` on the texts, 8192 words at most). So a text has about 118
tokens, mostly 90 to 150. Texts are complete: with `texts.min_segments` below 8 they would be shorter, and
padding would cost the plain implementation more.

    python perf/pretrain.py [--model vit_b] [--batch 8] [--steps 3] [--device cpu] [--out FILE.json]

On a GPU: bfloat16, and each batch size of --batch 32 64 128 256. The utilisation (MFU) is the FLOP/s of
the step divided by the measured peak matmul throughput.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from fusar_klip.models import KlipNetwork, ModelSettings
    from fusar_klip.pretrain.data.image_text_batches import ImageTextBatch

WAYS = ("plain", "ours", "fast")
WORDS, QUEUE, MOMENTUM, ALPHA = 30_522, 20_000, 0.995, 0.4
SEGMENTS, LOG_MEAN, LOG_STD = 8, 2.513, 0.44
# Relative difference of float64 losses and gradients whose sums are computed in another order.
TOLERANCE = 1e-9


def settings_of(model: str, way: str, dropout: float | None = None) -> "ModelSettings":
    from fusar_klip.models import MODELS

    settings = MODELS[model]  # type: ignore[index]
    changes: dict[str, Any] = {} if dropout is None else {"text_dropout": dropout}
    if way == "fast":
        changes["fusion_layers"] = settings.text_depth // 2
    return settings.model_copy(update=changes)


def make_network(settings: "ModelSettings") -> "KlipNetwork":
    """Return a network with the vocabulary size of BERT, and the same weights every time."""
    import torch

    from fusar_klip.models import KlipNetwork, Tokenizer
    from fusar_klip.models.tokenizer import SPECIAL_TOKENS

    torch.manual_seed(0)
    return KlipNetwork(settings, Tokenizer([*SPECIAL_TOKENS, ":", *(f"w{n}" for n in range(WORDS - 6))]))


def make_batch(settings: "ModelSettings", size: int, seed: int) -> "ImageTextBatch":
    """Return images of noise, and texts as described in the docstring of the module."""
    import numpy as np
    import torch

    from fusar_klip.models import Tokenizer
    from fusar_klip.models.losses import IGNORE_INDEX
    from fusar_klip.models.masking import mask_text
    from fusar_klip.models.tokenizer import SPECIAL_TOKENS
    from fusar_klip.pretrain.data.image_text_batches import ImageTextBatch

    tokenizer = Tokenizer([*SPECIAL_TOKENS, ":"])
    rng = np.random.default_rng(seed)
    texts, masked, hidden = [], [], []
    for _ in range(size):
        lengths = np.maximum(3, rng.lognormal(LOG_MEAN, LOG_STD, SEGMENTS)).astype(int)
        # A text that is too long loses the end of its longest segments, as `Tokenizer.segments` does it.
        while lengths.sum() + SEGMENTS + 1 > settings.max_tokens:
            lengths[lengths.argmax()] -= 1
        segments = [[6, 5, *rng.integers(7, WORDS, length - 2).tolist()] for length in lengths]
        holes = mask_text(segments, tokenizer, rng, fraction=0.15, span_tokens=3.0, segment_probability=0.1)
        texts.append(tokenizer.join(segments))
        masked.append(holes.visible)
        hidden.append(holes.hidden)
    labels, label_mask = tokenizer.pad(hidden)
    text, text_mask = tokenizer.pad(texts)
    masked_ids, masked_mask = tokenizer.pad(masked)
    return ImageTextBatch(
        images=torch.from_numpy(rng.normal(size=(size, 1, settings.image_size, settings.image_size))).float(),
        tile_ids=torch.from_numpy(rng.permutation(10 * size)[:size]),
        gsd_m=torch.full((size,), torch.nan),
        draws=torch.from_numpy(rng.random((size, 2), np.float32)),
        text=text,
        text_mask=text_mask,
        masked=masked_ids,
        masked_mask=masked_mask,
        decoder_input=tokenizer.pad([[tokenizer.cls_id, *spans[:-1]] for spans in hidden])[0],
        decoder_labels=labels.masked_fill(label_mask == 0, IGNORE_INDEX),
    )


class Ours:
    """A step of this package."""

    def __init__(self, settings: "ModelSettings", device: "torch.device") -> None:
        import torch
        import torch.nn.functional as F

        from fusar_klip.models.network.momentum import MomentumTowers
        from fusar_klip.models.network.queue import FeatureQueue
        from fusar_klip.pretrain.loss import PretrainLoss

        self.network = make_network(settings).to(device)
        self.momentum = MomentumTowers(self.network)
        self.queue = FeatureQueue(QUEUE, settings.embed_dim, device)
        features = [
            F.normalize(torch.randn(QUEUE, settings.embed_dim, device=device), dim=1) for _ in range(2)
        ]
        self.queue.enqueue(features[0], features[1], torch.full((QUEUE,), -100, device=device))
        self.pretrain_loss = PretrainLoss(self.network)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4, weight_decay=0.05, fused=True)

    def losses(self, batch: "ImageTextBatch") -> tuple["torch.Tensor", ...]:
        """Return ITC, ITM and MLM."""
        features = self.momentum.features(batch.images, batch.text, batch.text_mask, batch.gsd_m)
        queue = self.queue
        losses = self.pretrain_loss(batch, *features, queue.image_qe, queue.text_qe, queue.ids_q, ALPHA)
        self.queue_entry = (losses.momentum_image, losses.momentum_text, losses.ids)
        return losses.by_name["itc"], losses.by_name["itm"], losses.by_name["mlm"]

    def finish_step(self) -> None:
        """Update the momentum encoders and the queue."""
        self.momentum.update(self.network, MOMENTUM)
        self.queue.enqueue(*self.queue_entry)


class Plain:
    """A step as in ALBEF and BLIP."""

    def __init__(self, settings: "ModelSettings", device: "torch.device") -> None:
        import torch
        from pretrain_plain import PlainNetwork, PlainStep

        torch.manual_seed(0)
        source = make_network(settings)
        network = PlainNetwork(settings, WORDS).copy_weights(source).to(device)
        del source
        momentum = PlainNetwork(settings, WORDS).to(device)
        self.step = PlainStep(network, momentum, QUEUE, settings.max_tokens)
        self.network = network
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=0.05)

    def losses(self, batch: "ImageTextBatch") -> tuple["torch.Tensor", ...]:
        """Return ITC, ITM and MLM."""
        return self.step.losses(batch, ALPHA)

    def finish_step(self) -> None:
        """Update the momentum encoders; the queue is updated with the losses."""
        self.step.update_momentum(MOMENTUM)


def one_step(way: Ours | Plain, batch: "ImageTextBatch") -> list[float]:
    """Train on one batch; return the losses."""
    import torch

    device = batch.images.device.type
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        losses = way.losses(batch)
    way.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(sum(losses[1:], losses[0]))
    torch.nn.utils.clip_grad_norm_(way.network.parameters(), 1.0)
    way.optimizer.step()
    way.finish_step()
    # A training loop logs these, and so waits for the device.
    return [float(loss.detach()) for loss in losses]


def check(model: str, size: int) -> dict[str, float]:
    """Assert that `ours` and `plain` agree in losses and gradients (float64); return the largest differences.

    In float32 the gradients of a newly initialised attention's queries and keys, about 1e-6, are lost in
    rounding. Both implementations cast to float32 with `.float()`: this function makes that float64 for the
    rest of the process.
    """
    import torch

    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
    settings, device = settings_of(model, "ours", dropout=0.0), torch.device("cpu")
    batch = make_batch(settings, size, seed=1)
    batch = replace(batch, images=batch.images.double())

    def losses_and_gradients(way: Ours | Plain) -> tuple[list[float], dict[str, Any]]:
        way.network.train()
        losses = way.losses(batch)
        torch.autograd.backward(sum(losses[1:], losses[0]))
        gradients = {name: p.grad for name, p in way.network.named_parameters()}
        return [float(loss.detach()) for loss in losses], gradients

    plain_step = Plain(settings, device)
    image_queue, text_queue = plain_step.step.image_queue.t().clone(), plain_step.step.text_queue.t().clone()
    plain_losses, plain = losses_and_gradients(plain_step)
    del plain_step
    our_step = Ours(settings, device)
    our_step.queue.enqueue(image_queue, text_queue, torch.full((QUEUE,), -100))
    our_losses, ours = losses_and_gradients(our_step)
    assert plain.keys() == ours.keys()
    loss = max(abs(a - b) for a, b in zip(plain_losses, our_losses, strict=True))
    largest = max(float(g.abs().max()) for g in plain.values() if g is not None)
    worst = 0.0
    for name, gradient in plain.items():
        other = ours[name]
        assert gradient is not None, name
        assert other is not None, name
        # Relative to the norm of the tensor; the gradient of a bias of keys is rounding error alone.
        scale = max(float(gradient.norm()), 1e-4 * largest)
        worst = max(worst, float((gradient - other).norm()) / scale)
    assert loss < TOLERANCE, f"losses differ: {plain_losses} {our_losses}"
    assert worst < TOLERANCE, f"gradients differ by {worst}"
    return {"loss": loss, "gradient": worst}


def run_way(name: str, model: str, size: int, steps: int, device_name: str, profile: bool) -> dict[str, Any]:
    """Measure one implementation in this process."""
    import torch

    device = torch.device(device_name)
    settings = settings_of(model, name)
    way = (Plain if name == "plain" else Ours)(settings, device)
    way.network.train()
    batches = [make_batch(settings, size, seed).to(device) for seed in range(steps + 1)]
    one_step(way, batches[0])
    wall, processor = [], []
    for batch in batches[1:]:
        start, cpu_start = time.perf_counter(), time.process_time()
        one_step(way, batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - cpu_start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    result: dict[str, Any] = {
        "step_s": sorted(wall)[len(wall) // 2],
        "processor_s": sorted(processor)[len(processor) // 2],
        "peak_mib": peak,
        "text_tokens": float(sum(int(b.text_mask.sum()) for b in batches[1:]) / steps / size),
        "target_tokens": float(sum(int((b.decoder_labels >= 0).sum()) for b in batches[1:]) / steps / size),
    }
    result["samples_per_s"] = size / result["step_s"]
    result["flops"] = count_flops(lambda: one_step(way, batches[1]))
    result["flops_per_s"] = result["flops"] / result["step_s"]
    if profile:
        result["profile"] = profile_operations(lambda: one_step(way, batches[1]), device.type)
    return result


def count_flops(work: Callable[[], object]) -> int:
    """Return the FLOPs of matrix products and attention."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with torch.random.fork_rng(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def profile_operations(work: Callable[[], object], device: str) -> list[tuple[str, float]]:
    """Return the operations with the largest self time, and their shares of it."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device == "cuda" else [])
    with profile(activities=activities) as profiler:
        work()
    key = f"self_{'device' if device == 'cuda' else 'cpu'}_time_total"
    times = {event.key: float(getattr(event, key)) for event in profiler.key_averages()}
    total = sum(times.values())
    return [(name, value / total) for name, value in sorted(times.items(), key=lambda x: -x[1])[:12]]


def peak_matmul_flops(device_name: str) -> float:
    """Return the measured peak matmul throughput in FLOP/s: bfloat16 on a GPU, float32 on a CPU."""
    import torch

    on_gpu = device_name.startswith("cuda")
    side, repeats = (8192, 30) if on_gpu else (2048, 5)
    a = torch.randn(side, side, device=device_name, dtype=torch.bfloat16 if on_gpu else torch.float32)
    seconds = []
    for _ in range(repeats):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        a @ a
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / sorted(seconds)[len(seconds) // 2]


def run_in_process(*arguments: str) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("r", suffix=".json") as file:
        command = [sys.executable, __file__, *arguments, "--out", file.name]
        subprocess.run(command, check=True)
        result: dict[str, Any] = json.loads(Path(file.name).read_text(encoding="utf-8"))
        return result


def compare(options: argparse.Namespace, size: int) -> dict[str, Any]:
    """Measure all implementations on batches of `size`, each in its own process; return the figures."""
    common = [
        "--model",
        options.model,
        "--batch",
        str(size),
        "--steps",
        str(options.steps),
        "--device",
        options.device,
    ]
    results: dict[str, Any] = {way: run_in_process("--way", way, *common) for way in WAYS}
    plain = results["plain"]
    for way in ("ours", "fast"):
        results[f"{way}_times_plain"] = {
            "samples_per_s": results[way]["samples_per_s"] / plain["samples_per_s"],
            "per_processor_second": plain["processor_s"] / results[way]["processor_s"],
            "flops": plain["flops"] / results[way]["flops"],
            "memory": plain["peak_mib"] / results[way]["peak_mib"],
        }
    return results


def table(results: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    lines = [
        f"{results['model']} on {results['device']}: peak matmul throughput "
        f"{results['peak_matmul_flops'] / 1e9:.0f} GFLOP/s",
        "",
        "| batch | way | samples/s | step s | CPU s | TFLOP | utilisation | peak MiB | speed | memory|",
        "|" + "---|" * 10,
    ]
    for size, found in results["batches"].items():
        for way in WAYS:
            one, ratio = found[way], found.get(f"{way}_times_plain")
            lines.append(
                f"| {size} | {way} | {one['samples_per_s']:.3f} | {one['step_s']:.2f} "
                f"| {one['processor_s']:.2f} | {one['flops'] / 1e12:.2f} "
                f"| {one['flops_per_s'] / results['peak_matmul_flops']:.0%} | {one['peak_mib']:.0f} "
                + (f"| {ratio['samples_per_s']:.2f} | {ratio['memory']:.2f} |" if ratio else "| 1 | 1 |")
            )
    last = found["ours"]
    lines += [
        "",
        f"- {last['text_tokens']:.0f} tokens per text, {last['target_tokens']:.0f} generated by the decoder",
    ]
    if "check" in results:
        lines += [f"- losses of `ours` and `plain` agree to {results['check']['loss']:.0e}, gradients to "
                  f"{results['check']['gradient']:.0e} (dropout 0)"]  # fmt: skip
    for way in ("plain", "ours"):
        lines += ["", f"| `{way}`: operation | share of the time |", "|---|---|"]
        lines += [f"| {name} | {share:.1%} |" for name, share in found[way].get("profile", [])]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="vit_b", choices=["tiny", "small", "vit_b", "vit_l"])
    parser.add_argument("--batch", type=int, nargs="+", default=[8])
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after one warm-up step")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--check-batch",
        type=int,
        default=4,
        help="batch size of the check of losses and gradients; 0 skips it",
    )
    parser.add_argument("--out", type=Path, default=Path("perf/pretrain.json"))
    parser.add_argument("--way", choices=[*WAYS, "check", "peak"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    from fusar_klip.files import write_json

    if options.way == "check":
        write_json(options.out, check(options.model, options.batch[0]))
        return
    if options.way == "peak":
        write_json(options.out, {"peak_matmul_flops": peak_matmul_flops(options.device)})
        return
    if options.way:
        write_json(
            options.out,
            run_way(options.way, options.model, options.batch[0], options.steps, options.device, True),
        )
        return
    results: dict[str, Any] = {"model": options.model, "device": options.device, "batches": {}}
    if options.check_batch:
        results["check"] = run_in_process(
            "--way", "check", "--model", options.model, "--batch", str(options.check_batch)
        )
    results["peak_matmul_flops"] = run_in_process("--way", "peak", "--device", options.device)[
        "peak_matmul_flops"
    ]
    for size in options.batch:
        results["batches"][str(size)] = compare(options, size)
    print(table(results))
    write_json(options.out, results)


if __name__ == "__main__":
    main()
