"""FUSAR-KLIP's network: two towers, fusion encoder, matching head and decoder (paper 3.3).

It holds no loss, no queue and no momentum tower: those belong to training.

Images are encoded once (`image_tokens`), and their keys and values are computed once (`image_kv`) for every
text that is paired with them: in matching, in encoding masked texts and in generation.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusar_klip.models.network.bert import Packing
from fusar_klip.models.network.cross_attention import CrossAttentionCache
from fusar_klip.models.network.generation import generate_spans
from fusar_klip.models.network.towers import ImageTower, text_towers
from fusar_klip.models.settings import ModelSettings
from fusar_klip.models.tokenizer import Tokenizer

# B batch, N image tokens (class token first), L text tokens, T decoder tokens, K tokens of all texts without
# padding, W image width, D text width, E embed_dim, V vocabulary, S image size

# Bounds of the learned temperature (decisions.md, "Temperature"; ALBEF).
TEMPERATURE_START, TEMPERATURE_MIN, TEMPERATURE_MAX = 0.07, 0.001, 0.5


class KlipNetwork(nn.Module):
    """Image tower, text tower, fusion, matching head and decoder.

    Texts come as ids (B, L) int64 and mask (B, L), 1 = token, padded at the end. No text's result depends on
    the others of its batch; states of padding are 0.

    Args:
        settings: The sizes.
        tokenizer: Gives the vocabulary's size and its special tokens.
    """

    def __init__(self, settings: ModelSettings, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.settings = settings
        self.special = tokenizer.special
        self.image_tower = ImageTower(settings)
        self.text_tower, self.decoder = text_towers(settings, tokenizer)
        self.image_projection = nn.Linear(settings.image_width, settings.embed_dim)
        self.text_projection = nn.Linear(settings.text_width, settings.embed_dim)
        self.matching_head = nn.Linear(settings.text_width, 2)
        # The decoder's cross-attention takes image tokens; the encoded context comes at the text's width.
        self.context_projection = nn.Linear(settings.text_width, settings.image_width)
        # The logarithm is the parameter (CLIP): a step of Adam at rate 1e-3 would take a quarter of 0.004.
        self.log_temperature = nn.Parameter(torch.tensor(math.log(TEMPERATURE_START)))

    @property
    def temperature(self) -> Tensor:
        """Tau of eq. 4, a scalar."""
        return self.log_temperature.exp()

    def image_tokens(self, images_b1ss: Tensor, gsd_m_b: Tensor | None = None) -> Tensor:
        """Return the image tower's normalised output (B, N, W); the class token stands first.

        Args:
            images_b1ss: float32, standardised.
            gsd_m_b: Ground spacing in metres, nan = unknown; read only with `settings.gsd_embedding`.
        """
        return self.image_tower.tokens(images_b1ss, gsd_m_b)

    def image_features(self, tokens_bnw: Tensor) -> Tensor:
        """Return f_v of eq. 4: (B, E), normalised. Only the class token is read, so (B, 1, W) is enough."""
        return F.normalize(self.image_projection(tokens_bnw[:, 0]), dim=-1)

    def text_features(self, ids_bl: Tensor, mask_bl: Tensor) -> Tensor:
        """Return f_t of eq. 4 from the text alone: (B, E), normalised."""
        packing = Packing(mask_bl)
        first_bd = self.text_tower(
            self.text_tower.embeddings(ids_bl, packing),
            packing,
            layers=range(self.settings.text_only_layers),
            first_only=True,
        )
        return self._text_features(first_bd)

    def text_states(self, ids_bl: Tensor, mask_bl: Tensor) -> Tensor:
        """Return the states of the text alone, (B, L, D)."""
        packing = Packing(mask_bl)
        return packing.unpack(self._text_only(ids_bl, packing))

    def text_features_of(self, states_bld: Tensor) -> Tensor:
        """Return f_t of eq. 4 from `text_states`: (B, E), normalised."""
        return self._text_features(states_bld[:, 0])

    def image_kv(self, tokens_bnw: Tensor) -> CrossAttentionCache:
        """Return the images' keys and values for one text per image; see `CrossAttentionCache`."""
        return self.text_tower.image_kv(tokens_bnw)

    def fuse(self, ids_bl: Tensor, mask_bl: Tensor, image_kv: CrossAttentionCache) -> Tensor:
        """Return the text's states (B, L, D) after cross-attention to the image."""
        packing = Packing(mask_bl)
        return packing.unpack(self._fused(self._fusion_input(ids_bl, packing), packing, image_kv))

    def match_logits(self, ids_bl: Tensor, mask_bl: Tensor, image_kv: CrossAttentionCache) -> Tensor:
        """Return the logits of (no match, match): (B, 2). Their softmax's second column is p of eq. 5."""
        packing = Packing(mask_bl)
        return self._matched(self._fusion_input(ids_bl, packing), packing, image_kv)

    def match_logits_of(self, states_bld: Tensor, mask_bl: Tensor, image_kv: CrossAttentionCache) -> Tensor:
        """Return `match_logits` from the texts' `text_states`; only with late fusion."""
        packing = self._packing_for_late_fusion(mask_bl)
        return self._matched(packing.pack(states_bld), packing, image_kv)

    def decode(
        self, input_bt: Tensor, context_bld: Tensor, mask_bl: Tensor, image_kv: CrossAttentionCache
    ) -> Tensor:
        """Return the logits (B, T, V) of the token after each of `input_bt`, which is read causally.

        Args:
            input_bt: int64, [CLS] and the tokens generated so far; padding stands at the end, where no
                earlier token attends.
            context_bld: `fuse` of the masked text.
            mask_bl: The masked text's mask.
            image_kv: One image per text.
        """
        everything_bt = torch.ones_like(input_bt)
        logits_kv = self.decode_packed(input_bt, everything_bt, context_bld, mask_bl, image_kv)
        return logits_kv.view(*input_bt.shape, -1)

    def decode_packed(
        self,
        input_bt: Tensor,
        input_mask_bt: Tensor,
        context_bld: Tensor,
        mask_bl: Tensor,
        image_kv: CrossAttentionCache,
    ) -> Tensor:
        """Return `decode`'s logits (K, V) of the positions where `input_mask_bt` is 1, row by row."""
        packing = Packing(input_mask_bt)
        states_kd = self.decoder.bert(
            self.decoder.bert.embeddings(input_bt, packing),
            packing,
            cross_kv=self.decoder_kv(context_bld, mask_bl, image_kv),
            causal=True,
        )
        return self.decoder.logits(states_kd)

    def decoder_kv(
        self, context_bld: Tensor, mask_bl: Tensor, image_kv: CrossAttentionCache
    ) -> CrossAttentionCache:
        """Return the decoder's keys and values: of each text's image, and of the masked text's states."""
        context = self.text_tower.image_kv(self.context_projection(context_bld))
        return image_kv.with_context(context, mask_bl)

    @torch.no_grad()
    def generate(
        self,
        ids_bl: Tensor,
        mask_bl: Tensor,
        image_kv: CrossAttentionCache,
        *,
        spans: int | Sequence[int] = 1,
        max_tokens: int,
        beams: int = 1,
    ) -> list[list[int]]:
        """Fill the [MASK]s of texts; return each text's spans as token ids, each span ended by [SEP].

        Args:
            ids_bl: Texts with [MASK]s.
            mask_bl: Their mask.
            image_kv: One image per text.
            spans: Number of spans, for all texts or for each: as many as it has [MASK]s.
            max_tokens: Longest answer, [SEP]s counted; an answer without its last [SEP] was cut off.
            beams: 1 is greedy; more is beam search, which returns the answer with the highest mean
                log-probability per token.
        """
        context_bld = self.fuse(ids_bl, mask_bl, image_kv)
        decoder_kv = self.decoder_kv(context_bld, mask_bl, image_kv)
        wanted = [spans] * len(ids_bl) if isinstance(spans, int) else list(spans)
        return generate_spans(
            self.decoder, decoder_kv, self.special, wanted, max_tokens=max_tokens, beams=beams
        )

    def checkpoint_activations(self, on: bool = True) -> None:
        """Keep only each layer's input for the backward pass: less memory, a third more work."""
        self.image_tower.grad_checkpointing = on
        self.text_tower.checkpointing = self.decoder.bert.checkpointing = on

    def compile_layers(self, **options: object) -> None:
        """Compile each block and layer by itself (`torch.compile`): seconds at any depth.

        Shapes stay dynamic, because the number of text tokens changes at each step.
        """
        for layer in (
            *self.image_tower.blocks,
            *self.text_tower.layers,
            *self.decoder.bert.layers,
        ):
            layer.compile(dynamic=True, **options)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Clamp the learned temperature; call it after an optimiser's step."""
        self.log_temperature.clamp_(math.log(TEMPERATURE_MIN), math.log(TEMPERATURE_MAX))

    def _text_features(self, first_bd: Tensor) -> Tensor:
        return F.normalize(self.text_projection(first_bd), dim=-1)

    def _text_only(self, ids_bl: Tensor, packing: Packing) -> Tensor:
        """Return the states (K, D) of the text alone."""
        embedded_kd = self.text_tower.embeddings(ids_bl, packing)
        states_kd: Tensor = self.text_tower(
            embedded_kd, packing, layers=range(self.settings.text_only_layers)
        )
        return states_kd

    def _fusion_input(self, ids_bl: Tensor, packing: Packing) -> Tensor:
        """Return the input of the first fusion layer: embeddings, or the states of the text alone."""
        if self.settings.fusion_layers is None:
            words_kd: Tensor = self.text_tower.embeddings(ids_bl, packing)
            return words_kd
        return self._text_only(ids_bl, packing)

    def _fused(
        self, states_kd: Tensor, packing: Packing, image_kv: CrossAttentionCache, *, first_only: bool = False
    ) -> Tensor:
        layers = range(
            self.settings.text_depth - self.settings.cross_attention_layers, self.settings.text_depth
        )
        fused_kd: Tensor = self.text_tower(
            states_kd, packing, cross_kv=image_kv, layers=layers, first_only=first_only
        )
        return fused_kd

    def _matched(self, states_kd: Tensor, packing: Packing, image_kv: CrossAttentionCache) -> Tensor:
        logits_b2: Tensor = self.matching_head(self._fused(states_kd, packing, image_kv, first_only=True))
        return logits_b2

    def _packing_for_late_fusion(self, mask_bl: Tensor) -> Packing:
        assert self.settings.fusion_layers is not None, "text_states enter the fusion with late fusion only"
        return Packing(mask_bl)
