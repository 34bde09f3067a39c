"""Masked autoencoder (He et al. 2022, arXiv 2111.06377) around the image tower, and its loss.

The tower encodes the visible patches; a narrow decoder sees them with a mask token in each gap, and predicts
the pixels of the masked patches. The decoder is used in pretraining only.
"""

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fusar_klip.models import ModelSettings
from fusar_klip.models.distributed import all_reduce_mean
from fusar_klip.models.network.towers import ImageTower
from fusar_klip.pretrain.data.image_batches import MaskedBatch
from fusar_klip.pretrain.tasks.positions import sincos_positions
from fusar_klip.pretrain.tasks.settings import MaeSettings

# B batch, S image size, P patches, K visible patches, N tokens (class token first), W image width,
# D decoder width, Q pixels of a patch

# MAE's decoder is 512 wide under ViT-B's 768, in heads of 32.
_MAX_WIDTH, _WIDTH_RATIO, _HEAD_WIDTH = 512, 2 / 3, 32
# Added to a patch's variance, in units of the standardised pixels (MAE's code).
_EPS = 1e-6


class MaskedAutoencoder(nn.Module):
    """Image tower, decoder, and the loss of a batch.

    Args:
        tower: The image tower.
        model: Its sizes.
        settings: Decoder and target.
    """

    decoder_positions: Tensor

    def __init__(self, tower: ImageTower, model: ModelSettings, settings: MaeSettings) -> None:
        super().__init__()
        self.image_tower = tower
        width = settings.decoder_width or decoder_width(model.image_width)
        self.embed = nn.Linear(model.image_width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.register_buffer("decoder_positions", sincos_positions(model, width), persistent=False)
        self.blocks = nn.ModuleList(
            Block(width, width // _HEAD_WIDTH, qkv_bias=True) for _ in range(settings.decoder_depth)
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.predict = nn.Linear(width, model.patch_size**2)
        self.grad_checkpointing = False
        self._side, self._normalise = model.patch_size, settings.normalise_pixels
        nn.init.normal_(self.mask_token, std=0.02)
        for module in (self.embed, self.predict, *self.blocks.modules()):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, batch: MaskedBatch) -> Tensor:
        """Return the loss of a batch, a scalar; with several processes, their mean is the whole batch's."""
        predicted_bpq = self.predict_patches(batch).float()
        pixels_bpq = patches_of(batch.images, self._side)
        valid_bpq = patches_of(batch.valid, self._side)
        masked_bp = torch.ones(pixels_bpq.shape[:2], dtype=torch.bool, device=pixels_bpq.device)
        masked_bp.scatter_(1, batch.visible, False)
        return mae_loss(predicted_bpq, pixels_bpq, masked_bp, valid_bpq, normalise=self._normalise)

    def predict_patches(self, batch: MaskedBatch) -> Tensor:
        """Return the decoder's prediction for every patch, (B, P, Q)."""
        tower = self.image_tower
        tokens_bnw = tower.embedded(batch.images, batch.gsd_m)
        patches_bkw = _gather(tokens_bnw[:, 1:], batch.visible)
        encoded_bnw = tower.encoded(torch.cat([tokens_bnw[:, :1], patches_bkw], 1))
        encoded_bnd = self.embed(encoded_bnw)
        count, width = tokens_bnw.shape[1] - 1, encoded_bnd.shape[2]
        full_bpd = self.mask_token.to(encoded_bnd.dtype).expand(len(encoded_bnd), count, width)
        indices_bkd = batch.visible[:, :, None].expand(-1, -1, width)
        full_bpd = full_bpd.scatter(1, indices_bkd, encoded_bnd[:, 1:])
        states_bnd = torch.cat([encoded_bnd[:, :1], full_bpd], 1) + self.decoder_positions
        for block in self.blocks:
            if self.grad_checkpointing and torch.is_grad_enabled():
                states_bnd = checkpoint(block, states_bnd, use_reentrant=False)
            else:
                states_bnd = block(states_bnd)
        predicted_bpq: Tensor = self.predict(self.norm(states_bnd)[:, 1:])
        return predicted_bpq

    def checkpoint_activations(self) -> None:
        """Turn on activation checkpointing of every block."""
        self.image_tower.grad_checkpointing = self.grad_checkpointing = True

    def compile_layers(self) -> None:
        """Compile each block by itself (`torch.compile`)."""
        for block in (*self.image_tower.blocks, *self.blocks):
            block.compile()


def mae_loss(
    predicted_bpq: Tensor, pixels_bpq: Tensor, masked_bp: Tensor, valid_bpq: Tensor, *, normalise: bool
) -> Tensor:
    """Return the mean squared error of the masked patches' pixels, a scalar (MAE, section 3).

    No-data pixels are excluded from the mean, and from each patch's mean and standard deviation.

    Args:
        predicted_bpq: float32.
        pixels_bpq: float32, standardised.
        masked_bp: bool, True = masked, not seen by the encoder.
        valid_bpq: bool, True = valid data.
        normalise: Standardise each patch by its mean and standard deviation (n - 1, as MAE's code).
    """
    target_bpq = standardised_patches(pixels_bpq, valid_bpq) if normalise else pixels_bpq
    counts_bpq = masked_bp[:, :, None] & valid_bpq
    squares = (predicted_bpq - target_bpq).square().masked_fill(~counts_bpq, 0.0).sum()
    return squares / all_reduce_mean(counts_bpq.sum().float()).clamp(min=1)


def standardised_patches(pixels_bpq: Tensor, valid_bpq: Tensor) -> Tensor:
    """Return pixels standardised by mean and std of their patch's valid pixels, (B, P, Q)."""
    count_bp1 = valid_bpq.sum(2, keepdim=True)
    valid_pixels_bpq = pixels_bpq.masked_fill(~valid_bpq, 0.0)
    mean_bp1 = valid_pixels_bpq.sum(2, keepdim=True) / count_bp1.clamp(min=1)
    centred_bpq = (pixels_bpq - mean_bp1).masked_fill(~valid_bpq, 0.0)
    variance_bp1 = centred_bpq.square().sum(2, keepdim=True) / (count_bp1 - 1).clamp(min=1)
    return centred_bpq / (variance_bp1 + _EPS).sqrt()


def patches_of(images_b1ss: Tensor, side: int) -> Tensor:
    """Return (B, P, Q): patches in row-major order of the image, pixels in row-major order of the patch."""
    count = images_b1ss.shape[2] // side
    rows = images_b1ss.reshape(-1, count, side, count, side).transpose(2, 3)
    return rows.reshape(-1, count * count, side * side)


def decoder_width(image_width: int) -> int:
    """Return two thirds of the image tower's width, in whole heads, at most 512."""
    return max(min(_MAX_WIDTH, int(image_width * _WIDTH_RATIO) // _HEAD_WIDTH * _HEAD_WIDTH), _HEAD_WIDTH)


def _gather(tokens_bpw: Tensor, indices_bk: Tensor) -> Tensor:
    return tokens_bpw.gather(1, indices_bk[:, :, None].expand(-1, -1, tokens_bpw.shape[2]))
