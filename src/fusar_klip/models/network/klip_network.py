"""FUSAR-KLIP's network: two towers, fusion encoder, matching head and decoder (paper 3.3).

It holds no loss, no queue and no momentum tower: those belong to training.

Images are encoded once (`image_tokens`), and looked at once (`look`): the memory that this gives serves every
text that is paired with them, while matching, encoding masked texts and writing.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusar_klip.models.network.bert import Packing
from fusar_klip.models.network.cross_attention import CrossAttentionCache
from fusar_klip.models.network.generation import write_spans
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
        # Its logarithm is what is learned (CLIP): a step of Adam at rate 1e-3 would take a quarter of 0.004.
        self.log_temperature = nn.Parameter(torch.tensor(math.log(TEMPERATURE_START)))

    @property
    def temperature(self) -> Tensor:
        """The tau of eq. 4, a scalar."""
        return self.log_temperature.exp()

    def image_tokens(self, images_b1ss: Tensor, gsd_m_b: Tensor | None = None) -> Tensor:
        """Return the image tower's normalised output (B, N, W); the class token stands first.

        Args:
            images_b1ss: float32, standardised.
            gsd_m_b: Ground spacing in metres, nan = not known; read only with `settings.gsd_embedding`.
        """
        return self.image_tower.tokens(images_b1ss, gsd_m_b)

    def image_features(self, tokens_bnw: Tensor) -> Tensor:
        """Return f_v of eq. 4: (B, E), normalised. Only the class token is read; (B, 1, W) will do."""
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
        return packing.unpack(self._alone(ids_bl, packing))

    def text_features_of(self, states_bld: Tensor) -> Tensor:
        """Return f_t of eq. 4 from `text_states`: (B, E), normalised."""
        return self._text_features(states_bld[:, 0])

    def image_kv(self, tokens_bnw: Tensor) -> CrossAttentionCache:
        """Return what texts look at of these images, for one text per image; see `CrossAttentionCache`."""
        return self.text_tower.image_kv(tokens_bnw)

    def fuse(self, ids_bl: Tensor, mask_bl: Tensor, memory: CrossAttentionCache) -> Tensor:
        """Return the text's states (B, L, D), image looked at."""
        packing = Packing(mask_bl)
        return packing.unpack(self._fused(self._into_fusion(ids_bl, packing), packing, memory))

    def match_logits(self, ids_bl: Tensor, mask_bl: Tensor, memory: CrossAttentionCache) -> Tensor:
        """Return the logits of (no match, match): (B, 2). Their softmax's second column is p of eq. 5."""
        packing = Packing(mask_bl)
        return self._matched(self._into_fusion(ids_bl, packing), packing, memory)

    def match_logits_of(self, states_bld: Tensor, mask_bl: Tensor, memory: CrossAttentionCache) -> Tensor:
        """Return `match_logits` of texts whose `text_states` are at hand; only with late fusion."""
        packing = self._late(mask_bl)
        return self._matched(packing.pack(states_bld), packing, memory)

    def decode(
        self, input_bt: Tensor, context_bld: Tensor, mask_bl: Tensor, memory: CrossAttentionCache
    ) -> Tensor:
        """Return the logits (B, T, V) of the token after each of `input_bt`, which is read causally.

        Args:
            input_bt: int64, [CLS] and what has been written so far; padding stands at the end, where no
                earlier token looks.
            context_bld: `fuse` of the masked text.
            mask_bl: The masked text's mask.
            memory: One image per text.
        """
        everything_bt = torch.ones_like(input_bt)
        logits_kv = self.decode_packed(input_bt, everything_bt, context_bld, mask_bl, memory)
        return logits_kv.view(*input_bt.shape, -1)

    def decode_packed(
        self,
        input_bt: Tensor,
        input_mask_bt: Tensor,
        context_bld: Tensor,
        mask_bl: Tensor,
        memory: CrossAttentionCache,
    ) -> Tensor:
        """Return `decode`'s logits (K, V) of the places where `input_mask_bt` is 1 alone, row by row."""
        packing = Packing(input_mask_bt)
        states_kd = self.decoder.bert(
            self.decoder.bert.embeddings(input_bt, packing),
            packing,
            memory=self.decoder_memory(context_bld, mask_bl, memory),
            causal=True,
        )
        return self.decoder.logits(states_kd)

    def decoder_memory(
        self, context_bld: Tensor, mask_bl: Tensor, memory: CrossAttentionCache
    ) -> CrossAttentionCache:
        """Return what the decoder looks at: each text's image, and the masked text's states."""
        context = self.text_tower.image_kv(self.context_projection(context_bld))
        return memory.with_context(context, mask_bl)

    @torch.no_grad()
    def write(
        self,
        ids_bl: Tensor,
        mask_bl: Tensor,
        memory: CrossAttentionCache,
        *,
        spans: int | Sequence[int] = 1,
        max_tokens: int,
        beams: int = 1,
    ) -> list[list[int]]:
        """Fill the [MASK]s of texts; return each text's spans as token ids, each span ended by [SEP].

        Args:
            ids_bl: Texts with [MASK]s.
            mask_bl: Their mask.
            memory: One image per text.
            spans: How many spans to write, for all texts or for each: as many as it has [MASK]s.
            max_tokens: Longest answer, [SEP]s counted; an answer without its last [SEP] was cut there.
            beams: 1 takes the likeliest token each time; more keep that many answers in play, and return the
                one whose tokens are likeliest on average (geometric mean).
        """
        context_bld = self.fuse(ids_bl, mask_bl, memory)
        looked = self.decoder_memory(context_bld, mask_bl, memory)
        wanted = [spans] * len(ids_bl) if isinstance(spans, int) else list(spans)
        return write_spans(self.decoder, looked, self.special, wanted, max_tokens=max_tokens, beams=beams)

    def checkpoint_activations(self, on: bool = True) -> None:
        """Keep each layer's input alone for the way back: less memory, a third more work."""
        self.image_tower.grad_checkpointing = on
        self.text_tower.checkpointing = self.decoder.bert.checkpointing = on

    def compile_layers(self, **options: object) -> None:
        """Compile each block and layer by itself (`torch.compile`): seconds of compiling, whatever the depth.

        Shapes stay dynamic, because the number of text tokens is another one at each step.
        """
        for layer in (
            *self.image_tower.blocks,
            *self.text_tower.layers,
            *self.decoder.bert.layers,
        ):
            layer.compile(dynamic=True, **options)

    @torch.no_grad()
    def clamp_temperature(self) -> None:
        """Keep the learned temperature in its bounds; call it after an optimiser's step."""
        self.log_temperature.clamp_(math.log(TEMPERATURE_MIN), math.log(TEMPERATURE_MAX))

    def _text_features(self, first_bd: Tensor) -> Tensor:
        return F.normalize(self.text_projection(first_bd), dim=-1)

    def _alone(self, ids_bl: Tensor, packing: Packing) -> Tensor:
        """Return the states (K, D) of the text alone."""
        embedded_kd = self.text_tower.embeddings(ids_bl, packing)
        states_kd: Tensor = self.text_tower(
            embedded_kd, packing, layers=range(self.settings.text_only_layers)
        )
        return states_kd

    def _into_fusion(self, ids_bl: Tensor, packing: Packing) -> Tensor:
        """Return what the first fusion layer reads: words, or the states of the text alone."""
        if self.settings.fusion_layers is None:
            words_kd: Tensor = self.text_tower.embeddings(ids_bl, packing)
            return words_kd
        return self._alone(ids_bl, packing)

    def _fused(
        self, states_kd: Tensor, packing: Packing, memory: CrossAttentionCache, *, first_only: bool = False
    ) -> Tensor:
        layers = range(self.settings.text_depth - self.settings.memory_layers, self.settings.text_depth)
        fused_kd: Tensor = self.text_tower(
            states_kd, packing, memory=memory, layers=layers, first_only=first_only
        )
        return fused_kd

    def _matched(self, states_kd: Tensor, packing: Packing, memory: CrossAttentionCache) -> Tensor:
        logits_b2: Tensor = self.matching_head(self._fused(states_kd, packing, memory, first_only=True))
        return logits_b2

    def _late(self, mask_bl: Tensor) -> Packing:
        assert self.settings.fusion_layers is not None, "text_states enter the fusion with late fusion only"
        return Packing(mask_bl)
