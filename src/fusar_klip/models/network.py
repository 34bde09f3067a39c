"""FUSAR-KLIP's network: two towers, fusion encoder, matching head and decoder (paper 3.3).

It holds no loss, no queue and no momentum tower: those belong to training.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusar_klip.models.settings import ModelSettings
from fusar_klip.models.tokenizer import Tokenizer
from fusar_klip.models.towers import image_tower, text_towers

# B batch, N image tokens (class token first), L text tokens, T decoder tokens, W image width, D text width,
# E embed_dim, V vocabulary, S image size

# Bounds of the learned temperature (decisions.md, "Temperature"; ALBEF).
TEMPERATURE_START, TEMPERATURE_MIN, TEMPERATURE_MAX = 0.07, 0.001, 0.5


class KlipNetwork(nn.Module):
    """Image tower, text tower, fusion, matching head and decoder.

    Args:
        settings: The sizes.
        tokenizer: Gives the vocabulary's size and its special tokens.
    """

    def __init__(self, settings: ModelSettings, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.settings = settings
        self.image_tower = image_tower(settings)
        self.text_tower, self.decoder = text_towers(settings, tokenizer)
        self.image_projection = nn.Linear(settings.image_width, settings.embed_dim)
        self.text_projection = nn.Linear(settings.text_width, settings.embed_dim)
        self.matching_head = nn.Linear(settings.text_width, 2)
        # The decoder's cross-attention takes image tokens; the encoded context comes at the text's width.
        self.context_projection = nn.Linear(settings.text_width, settings.image_width)
        # Its logarithm is what is learned (CLIP): a step of Adam at rate 1e-3 would take a quarter of 0.004.
        self.log_temperature = nn.Parameter(torch.tensor(math.log(TEMPERATURE_START)))

    @property
    def temperature(self) -> Tensor:
        """The tau of eq. 4, a scalar."""
        return self.log_temperature.exp()

    def image_tokens(self, images_b1ss: Tensor) -> Tensor:
        """Return the image tower's normalised output (B, N, W); the class token stands first."""
        tokens_bnw: Tensor = self.image_tower.forward_features(images_b1ss)
        return tokens_bnw

    def image_features(self, tokens_bnw: Tensor) -> Tensor:
        """Return f_v of eq. 4: (B, E), normalised."""
        return F.normalize(self.image_projection(tokens_bnw[:, 0]), dim=-1)

    def text_features(self, ids_bl: Tensor, mask_bl: Tensor) -> Tensor:
        """Return f_t of eq. 4 from the text alone: (B, E), normalised."""
        states_bld = self.text_tower(input_ids=ids_bl, attention_mask=mask_bl).last_hidden_state
        return F.normalize(self.text_projection(states_bld[:, 0]), dim=-1)

    def fuse(self, ids_bl: Tensor, mask_bl: Tensor, tokens_bnw: Tensor) -> Tensor:
        """Return the text's states (B, L, D), image looked at in every layer."""
        states_bld: Tensor = self.text_tower(
            input_ids=ids_bl, attention_mask=mask_bl, encoder_hidden_states=tokens_bnw
        ).last_hidden_state
        return states_bld

    def match_logits(self, ids_bl: Tensor, mask_bl: Tensor, tokens_bnw: Tensor) -> Tensor:
        """Return the logits of (no match, match): (B, 2). Their softmax's second column is p of eq. 5."""
        logits_b2: Tensor = self.matching_head(self.fuse(ids_bl, mask_bl, tokens_bnw)[:, 0])
        return logits_b2

    def decode(self, input_bt: Tensor, context_bld: Tensor, mask_bl: Tensor, tokens_bnw: Tensor) -> Tensor:
        """Return the logits (B, T, V) of the token after each of `input_bt`, which is read causally.

        Args:
            input_bt: int64, [CLS] and what has been written so far; padding stands at the end, where no
                earlier token looks.
            context_bld: `fuse` of the masked text.
            mask_bl: The masked text's mask.
            tokens_bnw: The image tower's output.
        """
        image_mask_bn = mask_bl.new_ones(tokens_bnw.shape[:2])
        logits_btv: Tensor = self.decoder(
            input_ids=input_bt,
            attention_mask=torch.ones_like(input_bt),
            encoder_hidden_states=torch.cat([tokens_bnw, self.context_projection(context_bld)], dim=1),
            encoder_attention_mask=torch.cat([image_mask_bn, mask_bl], dim=1),
            is_decoder=True,
            use_cache=False,
        ).logits
        return logits_btv

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep the learned temperature in its bounds; call it after an optimiser's step."""
        self.log_temperature.clamp_(math.log(TEMPERATURE_MIN), math.log(TEMPERATURE_MAX))
