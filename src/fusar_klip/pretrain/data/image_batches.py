"""Batches of tiles without texts: masked tiles for MAE, pairs of views for MoCo v3.

Masks and views depend on (seed, step, tile) only, as in `image_text_batches.py`: they are drawn here and
not on the device, so that they do not depend on the number of processes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusar_klip.models import Preprocess, open_tile_cache
from fusar_klip.models.tile_cache import TileImages
from fusar_klip.pretrain.data.augmentation import View, identity_view, random_view
from fusar_klip.pretrain.data.dataset import gsd_m_or_hidden, input_gsd_m, kept_tiles
from fusar_klip.pretrain.data.sampler import StepBatches, TensorBatch
from fusar_klip.pretrain.tasks.settings import MaeSettings, MocoV3Settings, ViewSettings

# B batch, S input size, P patches, K visible patches


@dataclass(frozen=True)
class ImageTiles:
    """Kept tiles of one split, with texts or without.

    Attributes:
        images: (M, S, S) uint8, the cache of *all* tiles, 0 = no data.
        rows: (N,) int64, each tile's row in `images`; also its identity.
        gsd_m: (N,) float32, ground spacing of a pixel of `images` in metres; nan where it is not known.
    """

    images: TileImages
    rows: npt.NDArray[np.int64]
    gsd_m: npt.NDArray[np.float32]

    def __len__(self) -> int:
        """Return the number of tiles."""
        return len(self.rows)


def read_image_tiles(dataset: Path, split: str, image_size: int) -> ImageTiles:
    """Return the kept tiles of `split` that can be read, in the catalog's order."""
    tiles = kept_tiles(dataset, split, image_size)
    cache = open_tile_cache(dataset, image_size, tell=False)
    rows = np.array([cache.rows[tile_id] for tile_id in tiles["tile_id"]], np.int64)
    return ImageTiles(cache.images, rows, input_gsd_m(tiles, image_size))


@dataclass(frozen=True)
class MaskedBatch(TensorBatch):
    """Tiles of one forward pass of MAE.

    Attributes:
        images: (B, 1, S, S) float32, standardised.
        valid: (B, 1, S, S) bool, where there is data.
        visible: (B, K) int64, the visible patches, in row-major order of the image, ascending.
        tile_ids: (B,) int64, which tile each row is.
        gsd_m: (B,) float32, ground spacing of the input's pixels in metres; nan = not known.
    """

    images: Tensor
    valid: Tensor
    visible: Tensor
    tile_ids: Tensor
    gsd_m: Tensor


@dataclass(frozen=True)
class ViewsBatch(TensorBatch):
    """Pairs of views of one forward pass of MoCo v3.

    Attributes:
        images: (B, 2, 1, S, S) float32, standardised: two views of each tile.
        tile_ids: (B,) int64, which tile each row is.
        gsd_m: (B, 2) float32, ground spacing of each view's pixels in metres; nan = not known.
    """

    images: Tensor
    tile_ids: Tensor
    gsd_m: Tensor


class MaskedBatches(StepBatches[MaskedBatch]):
    """Batches of masked tiles.

    Args:
        tiles: The split.
        preprocess: Standardises.
        settings: Augmentation and mask ratio.
        patches: P.
        batch_size: As `StepBatches`; so are `seed`, `accumulate`, `rank` and `world_size`.
        augment: Whether random views are drawn; else tiles are unchanged, and only masks are drawn.
    """

    def __init__(
        self,
        tiles: ImageTiles,
        preprocess: Preprocess,
        settings: MaeSettings,
        patches: int,
        *,
        batch_size: int,
        seed: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        augment: bool = True,
    ) -> None:
        super().__init__(
            len(tiles),
            batch_size=batch_size,
            seed=seed,
            accumulate=accumulate,
            rank=rank,
            world_size=world_size,
        )
        self._tiles, self._preprocess, self._settings = tiles, preprocess, settings
        self._patches, self._augment = patches, augment

    def collate(self, indices: npt.NDArray[np.int64], step: int) -> MaskedBatch:
        """Return the batch of the tiles at `indices`, with the random draws of `step`."""
        views, visible, gsd_m = [], [], []
        count = self._patches - masked_patches(self._patches, self._settings.mask_ratio)
        for index in map(int, indices):
            rng = np.random.default_rng((self._seed, step, int(self._tiles.rows[index])))
            tile = self._tiles.images[int(self._tiles.rows[index])]
            views.append(random_view(tile, self._settings, rng) if self._augment else identity_view(tile))
            visible.append(np.sort(rng.permutation(self._patches)[:count]))
            spacing = float(self._tiles.gsd_m[index])
            gsd_m.append(gsd_m_or_hidden(spacing, rng) if self._augment else spacing)
        return MaskedBatch(
            self._preprocess.standardise(np.stack([view.pixels for view in views])),
            torch.from_numpy(np.stack([view.valid for view in views])[:, None]),
            torch.from_numpy(np.stack(visible)),
            torch.from_numpy(self._tiles.rows[indices]),
            torch.tensor(gsd_m) * _zooms(views),
        )


def masked_patches(patches: int, ratio: float) -> int:
    """Return how many of `patches` are masked: at least one, and at least one stays visible."""
    return min(max(round(patches * ratio), 1), patches - 1)


class ViewsBatches(StepBatches[ViewsBatch]):
    """Batches of pairs of views.

    Args:
        tiles: The split.
        preprocess: Standardises.
        settings: Augmentation.
        batch_size: As `StepBatches`; so are `seed`, `accumulate`, `rank` and `world_size`.
    """

    def __init__(
        self,
        tiles: ImageTiles,
        preprocess: Preprocess,
        settings: MocoV3Settings,
        *,
        batch_size: int,
        seed: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__(
            len(tiles),
            batch_size=batch_size,
            seed=seed,
            accumulate=accumulate,
            rank=rank,
            world_size=world_size,
        )
        self._tiles, self._preprocess = tiles, preprocess
        self._settings: ViewSettings = settings

    def collate(self, indices: npt.NDArray[np.int64], step: int) -> ViewsBatch:
        """Return the batch of the tiles at `indices`, with the random draws of `step`."""
        views, gsd_m = [], []
        for index in map(int, indices):
            rng = np.random.default_rng((self._seed, step, int(self._tiles.rows[index])))
            tile = self._tiles.images[int(self._tiles.rows[index])]
            views += [random_view(tile, self._settings, rng) for _ in range(2)]
            gsd_m.append(gsd_m_or_hidden(float(self._tiles.gsd_m[index]), rng))
        images = self._preprocess.standardise(np.stack([view.pixels for view in views]))
        return ViewsBatch(
            images.view(len(indices), 2, *images.shape[1:]),
            torch.from_numpy(self._tiles.rows[indices]),
            torch.tensor(gsd_m)[:, None] * _zooms(views).view(-1, 2),
        )


def _zooms(views: list[View]) -> Tensor:
    return torch.tensor([view.zoom for view in views])
