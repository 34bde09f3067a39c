"""A tiny RUN with random weights, and chips of three classes that a linear probe separates."""

import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fusar_klip.models import KlipNetwork, ModelSettings, Preprocess, Tokenizer
from fusar_klip.models.checkpoint import save_weights

SETTINGS = ModelSettings(
    image_size=32,
    patch_size=8,
    image_width=32,
    image_depth=2,
    image_heads=2,
    text_width=32,
    text_depth=1,
    text_heads=2,
    text_dropout=0.0,
    embed_dim=16,
    max_tokens=64,
)
CLASSES = ("left", "right", "top")


def write_run(run: Path, seed: int = 1) -> str:
    """Write a RUN folder with random weights of a seed, and return its path."""
    run.mkdir(parents=True)
    tokenizer = Tokenizer.train(["Count: 3 ships. Location: in the top left."], 300)
    torch.manual_seed(seed)
    save_weights(KlipNetwork(SETTINGS, tokenizer), run / "model.safetensors")
    Preprocess(SETTINGS.image_size).save(run / "preprocess.json")
    tokenizer.save(run / "tokenizer.json")
    return str(run)


def chip(label: str, rng: np.random.Generator) -> Image.Image:
    """Speckle with a bright patch where the class says."""
    pixels = rng.rayleigh(20, (40, 40))
    window = {"left": np.s_[15:25, 2:10], "right": np.s_[15:25, 30:38], "top": np.s_[2:10, 15:25]}[label]
    pixels[window] += 180
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_chips(data: Path) -> Path:
    """Write `chips` below a data folder: 3 classes, 12 training and 6 test images each, in groups of two."""
    rng = np.random.default_rng(0)
    with (data / "split.tmp").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "class", "group", "split"])
        for c, label in enumerate(CLASSES):
            (data / "chips" / label).mkdir(parents=True)
            for number in range(18):
                name = f"{label}/{number:03d}.png"
                chip(label, rng).save(data / "chips" / name)
                table.writerow([name, label, 100 * c + number // 2, "train" if number < 12 else "test"])
    (data / "split.tmp").rename(data / "chips" / "split.csv")
    return data
