"""Figure 10: agreement between the neighbourhoods of images and of their texts.

The paper plots image and text features of one trained model together. Here no trained model is used, because
a model trained on the texts would favour them: images are described by measured features, texts by their
words, and each is laid out by t-SNE separately. The colour of a tile is its group among the *images* in every
panel. Texts that follow the images keep the colours together; template texts mix them.

Beside the plot stands a number: of the k nearest tiles by image, the share that is also among the k nearest
by text (mutual k-nearest neighbours). Overlapping tiles (of one `ground_id`) never count as neighbours: they
would agree whatever their texts are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler, normalize

from fusar_klip.catalog import FEATURES
from fusar_klip.progress import track
from fusar_klip.texts.tile_images import read_pixels

NEIGHBOURS = 10
GROUPS = 6
MIN_TILES = 40
_LAYOUT_CELLS = 8
_DIMENSIONS = 32
_SEED = 0


@dataclass(frozen=True)
class Panel:
    """One t-SNE layout, and its agreement with that of the images.

    Attributes:
        name: "images", or a text version.
        positions: (N, 2) float64, 0 to 1.
        agreement: Mean share of common neighbours; None for the images themselves.
        ci_low: Lower end of its 95 % interval over tiles.
        ci_high: Upper end.
    """

    name: str
    positions: NDArray[np.float64]
    agreement: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None


@dataclass(frozen=True)
class ImageTextSimilarity:
    """The layouts of images and texts, and what they share.

    Attributes:
        panels: The images', then one for each text version.
        groups: (N,) int, each tile's group among the images.
        exemplars: Index of the tile nearest to the centre of each group.
        chance: Chance level of the agreement, for texts independent of the images.
        features: A description of the image features.
    """

    panels: list[Panel]
    groups: NDArray[np.int_]
    exemplars: list[int]
    chance: float
    features: str


def compare_layouts(
    dataset: Path, tiles: pd.DataFrame, texts: Mapping[str, Sequence[str]]
) -> ImageTextSimilarity:
    """Lay out images and texts of the same tiles.

    Args:
        dataset: The data set's folder.
        tiles: N >= 40 rows of the catalog: path, ground_id and the features.
        texts: For each text version the N texts of these tiles.

    Raises:
        DatasetError: A tile cannot be read.
    """
    images, words = image_features(dataset, tiles)
    ground_ids = pd.factorize(tiles["ground_id"])[0]
    near = _neighbours(images, ground_ids)
    kmeans = KMeans(GROUPS, n_init=4, random_state=_SEED).fit(images)
    # By size, so that the first colour is the most common group.
    order = np.argsort(-np.bincount(kmeans.labels_, minlength=GROUPS), kind="stable")
    groups = np.argsort(order)[kmeans.labels_]
    exemplars = [int(np.argmin(np.linalg.norm(images - kmeans.cluster_centers_[g], axis=1))) for g in order]
    panels = [Panel("images", _layout(images))]
    for name, sentences in track(list(texts.items()), "laying out texts"):
        features = text_features(sentences)
        shares = _common(near, _neighbours(features, ground_ids))
        half = 1.96 * float(shares.std()) / np.sqrt(len(shares))
        mean = float(shares.mean())
        panels.append(Panel(name, _layout(features), mean, max(0.0, mean - half), min(1.0, mean + half)))
    others = (ground_ids[:, None] != ground_ids[None]).sum(axis=1)
    chance = float(np.mean(np.minimum(1.0, NEIGHBOURS / np.maximum(others, 1))))
    return ImageTextSimilarity(panels, groups, exemplars, chance, words)


def image_features(dataset: Path, tiles: pd.DataFrame) -> tuple[NDArray[np.float64], str]:
    """Return (N, D) float64 features of the tiles' pixels, and a description of them.

    Mean and standard deviation of the logarithm of the grey levels in 8 x 8 cells, and the catalog's texture
    and statistics where every tile has them; standardised, the two kinds of equal weight, at most 32
    principal components.
    """
    cells = np.stack([_cells(dataset / path) for path in track(list(tiles["path"]), "measuring images")])
    parts = [StandardScaler().fit_transform(cells) / np.sqrt(cells.shape[1])]
    known = [name for name in FEATURES if name in tiles and bool(tiles[name].notna().all())]
    words = "mean and spread of the grey levels (log) in 8 × 8 cells"
    if known:
        columns = tiles[known].to_numpy(np.float64)
        parts.append(StandardScaler().fit_transform(columns) / np.sqrt(len(known)))
        words += f", and {len(known)} texture and statistics features of the catalog"
    features = np.hstack(parts)
    reduced = PCA(min(_DIMENSIONS, *features.shape), random_state=_SEED).fit_transform(features)
    return cast(NDArray[np.float64], reduced), words


def text_features(texts: Sequence[str]) -> NDArray[np.float64]:
    """Return (N, D) float64: TF-IDF of words and pairs of words, at most 32 singular vectors, length 1."""
    counts = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+").fit_transform(texts)
    if counts.shape[1] <= _DIMENSIONS:
        return cast(NDArray[np.float64], counts.toarray())
    reduced = TruncatedSVD(_DIMENSIONS, random_state=_SEED).fit_transform(counts)
    return cast(NDArray[np.float64], normalize(reduced))


def _cells(path: Path) -> NDArray[np.float64]:
    levels = np.log1p(read_pixels(path).astype(np.float32))
    small = Image.fromarray(levels).resize((8 * _LAYOUT_CELLS, 8 * _LAYOUT_CELLS), Image.Resampling.BOX)
    blocks = np.asarray(small, np.float64).reshape(_LAYOUT_CELLS, 8, _LAYOUT_CELLS, 8)
    return np.concatenate([blocks.mean(axis=(1, 3)).ravel(), blocks.std(axis=(1, 3)).ravel()])


def _neighbours(features: NDArray[np.float64], ground_ids: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Return (N, N) bool: the nearest tiles of each, without those of its own `ground_id`."""
    square = (features**2).sum(axis=1)
    distances = square[:, None] + square[None] - 2 * features @ features.T
    distances[ground_ids[:, None] == ground_ids[None]] = np.inf
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :NEIGHBOURS]
    near: NDArray[np.bool_] = np.zeros(distances.shape, np.bool_)
    np.put_along_axis(near, nearest, True, axis=1)
    near &= np.isfinite(distances)
    return near


def _common(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> NDArray[np.float64]:
    return cast(NDArray[np.float64], (one & other).sum(axis=1) / np.maximum(one.sum(axis=1), 1))


def _layout(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return t-SNE positions scaled to 0 to 1; the same features give the same positions."""
    if np.ptp(features, axis=0).max() == 0:
        return np.full((len(features), 2), 0.5)
    perplexity = min(30.0, (len(features) - 1) / 3)
    # PCA cannot initialise a layout from fewer than two dimensions.
    start = "pca" if features.shape[1] > 1 else "random"
    laid = TSNE(2, perplexity=perplexity, init=start, random_state=_SEED).fit_transform(features)
    low, high = laid.min(axis=0), laid.max(axis=0)
    return cast(NDArray[np.float64], ((laid - low) / np.maximum(high - low, 1e-9)).astype(np.float64))
