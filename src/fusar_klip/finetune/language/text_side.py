"""The copy of a model that is fine-tuned on texts: with a text tower, fusion and decoder, its text side.

Published image encoders have no text side; they get that of a RUN, randomly initialised.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fusar_klip import models
from fusar_klip.errors import CheckpointError
from fusar_klip.finetune.language.settings import LanguageSettings
from fusar_klip.models import Klip, KlipNetwork, Preprocess, Tokenizer, VisionEncoder

# B batch, S image side, N image tokens, W width


class ImageTowerAdapter(nn.Module):
    """An image tower in the place of `KlipNetwork.image_tower`; its pooled feature stands before its tokens.

    Args:
        tower: timm's ViT, or a tower with the same methods.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def tokens(self, images_b1ss: Tensor, gsd_m_b: Tensor | None = None) -> Tensor:
        """Return (B, 1 + N, W)."""
        tower: Any = self.tower
        tokens_bnw = tower.forward_features(images_b1ss)
        return torch.cat([tower.forward_head(tokens_bnw, pre_logits=True)[:, None], tokens_bnw], dim=1)

    def class_tokens(self, images_b1ss: Tensor, gsd_m_b: Tensor | None = None) -> Tensor:
        """Return (B, W)."""
        return self.tokens(images_b1ss)[:, 0]


def copy_with_text_side(model: VisionEncoder, settings: LanguageSettings) -> Klip:
    """Return a copy of the model with text tower, fusion and decoder, for texts of `settings.tokens`.

    Raises:
        CheckpointError: The model has no text side, and the settings name none.
    """
    if isinstance(model, Klip):
        network = model.network
        if settings.fresh_text_side:
            initialised = KlipNetwork(network.settings, model.tokenizer)
            initialised.image_tower = network.image_tower
            network = initialised
        return _copied(network, model.preprocess, model.tokenizer, model.device, settings.tokens)
    if settings.text_side is None:
        raise CheckpointError(
            f"{model.title} has no fusion and no decoder, so it cannot be fine-tuned on texts: name a RUN "
            "whose text side is put behind it, text_side = RUN"
        )
    text = models.load(settings.text_side)
    tower = model.image_tower
    architecture = text.network.settings.model_copy(
        update={"image_width": tower.num_features, "image_depth": 1, "image_heads": 1}
    )
    joined = KlipNetwork(architecture, text.tokenizer)
    joined.image_tower = ImageTowerAdapter(tower)  # type: ignore[assignment]
    return _copied(joined, model.preprocess, text.tokenizer, model.device, settings.tokens)


def _copied(
    network: KlipNetwork,
    preprocess: Preprocess,
    tokenizer: Tokenizer,
    device: torch.device,
    tokens: int,
) -> Klip:
    network = copy.deepcopy(network)
    network.settings = network.settings.model_copy(update={"max_tokens": tokens})
    return Klip(network, preprocess, tokenizer, device)
