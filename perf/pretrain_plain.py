"""The plain training step of perf/pretrain.py: the same mathematics, as in ALBEF's and BLIP's code.

It uses transformers' BLIP text classes, which are BLIP's med.py, and ViT blocks with explicit attention.
Every text, and the decoder's target, is padded to `max_tokens`, as BLIP pads its captions. Every pair encodes
its text again and computes the keys and values of its image again. Hard negatives are drawn and stacked in a
loop over the batch. The whole queue is cloned. Momentum weights are updated one by one.

Weights have the same names as those of `KlipNetwork`, so that both networks can hold the same weights.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import BlipTextConfig
from transformers.cache_utils import Cache
from transformers.models.blip.modeling_blip_text import BlipTextAttention, BlipTextLMHeadModel, BlipTextModel

from fusar_klip.models import KlipNetwork, ModelSettings
from fusar_klip.models.losses import IGNORE_INDEX
from fusar_klip.models.settings import MAX_POSITIONS
from fusar_klip.pretrain.data.image_text_batches import ImageTextBatch


class _CrossAttention(BlipTextAttention):
    """transformers' cross-attention, with the mask of the context, which it expects as another argument."""

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        past_key_values: Cache | None = None,
        **_others: Any,
    ) -> tuple[Tensor, Tensor]:
        context, weights = self.self(
            hidden_states,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=attention_mask,
        )
        return self.output(context, hidden_states), weights


class PlainNetwork(nn.Module):
    """Towers, fusion and decoder, as in ALBEF and BLIP.

    Args:
        settings: The sizes.
        vocab_size: Size of the vocabulary.
    """

    def __init__(self, settings: ModelSettings, vocab_size: int) -> None:
        super().__init__()
        self.image_tower = VisionTransformer(
            img_size=settings.image_size, patch_size=settings.patch_size, in_chans=1, num_classes=0,
            embed_dim=settings.image_width, depth=settings.image_depth, num_heads=settings.image_heads,
        )  # fmt: skip
        block: Any
        for block in self.image_tower.blocks:
            block.attn.fused_attn = False
        config = BlipTextConfig(
            vocab_size=vocab_size, hidden_size=settings.text_width, encoder_hidden_size=settings.image_width,
            intermediate_size=4 * settings.text_width, num_hidden_layers=settings.text_depth,
            num_attention_heads=settings.text_heads, max_position_embeddings=MAX_POSITIONS,
            hidden_dropout_prob=settings.text_dropout, attention_probs_dropout_prob=settings.text_dropout,
            pad_token_id=0, bos_token_id=None, is_decoder=True, use_cache=False,
        )  # fmt: skip
        self.text_tower = BlipTextModel(config, add_pooling_layer=False)
        self.decoder = BlipTextLMHeadModel(config)
        self.decoder.bert.embeddings = self.text_tower.embeddings
        for layer, own in zip(self.text_tower.encoder.layer, self.decoder.bert.encoder.layer, strict=True):
            layer.crossattention = own.crossattention = _CrossAttention(config, True)  # type: ignore[no-untyped-call]
            own.intermediate, own.output = layer.intermediate, layer.output
        head = self.decoder.cls.predictions
        head.decoder.weight, head.decoder.bias = self.text_tower.embeddings.word_embeddings.weight, head.bias
        self.image_projection = nn.Linear(settings.image_width, settings.embed_dim)
        self.text_projection = nn.Linear(settings.text_width, settings.embed_dim)
        self.matching_head = nn.Linear(settings.text_width, 2)
        self.context_projection = nn.Linear(settings.text_width, settings.image_width)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(0.07)))

    def copy_weights(self, network: KlipNetwork) -> "PlainNetwork":
        """Copy the weights of `network`; return self."""
        weights, own = dict(network.named_parameters()), dict(self.named_parameters())
        assert weights.keys() == own.keys(), weights.keys() ^ own.keys()
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(weights[name])
        return self


class PlainStep:
    """The losses, the momentum encoders and the queue.

    Args:
        network: The network, on its device.
        momentum: The momentum encoders, on the same device.
        queue: Number of pairs in the queue.
        max_tokens: Length that every text is padded to.
    """

    def __init__(self, network: PlainNetwork, momentum: PlainNetwork, queue: int, max_tokens: int) -> None:
        self.network, self.momentum, self.max_tokens = network, momentum.eval(), max_tokens
        momentum.load_state_dict(network.state_dict())
        momentum.requires_grad_(False)
        self.device = network.log_temperature.device
        width = network.image_projection.out_features
        self.image_queue = F.normalize(torch.randn(width, queue, device=self.device), dim=0)
        self.text_queue = F.normalize(torch.randn(width, queue, device=self.device), dim=0)
        self.ids_queue = torch.full((1, queue), -100, device=self.device)
        self.next_slot = 0

    def losses(self, batch: ImageTextBatch, alpha: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return ITC, ITM and MLM."""
        network, temperature = self.network, self.network.log_temperature.exp()
        text, text_mask = self._padded(batch.text, 0), self._padded(batch.text_mask, 0)
        image_embeds = network.image_tower.forward_features(batch.images)
        image_feat = F.normalize(network.image_projection(image_embeds[:, 0]), dim=-1)
        text_output = network.text_tower(input_ids=text, attention_mask=text_mask).last_hidden_state
        text_feat = F.normalize(network.text_projection(text_output[:, 0]), dim=-1)
        with torch.no_grad():
            image_m = self.momentum.image_tower.forward_features(batch.images)
            image_feat_m = F.normalize(self.momentum.image_projection(image_m[:, 0]), dim=-1)
            text_m = self.momentum.text_tower(input_ids=text, attention_mask=text_mask).last_hidden_state
            text_feat_m = F.normalize(self.momentum.text_projection(text_m[:, 0]), dim=-1)
            image_feat_all = torch.cat([image_feat_m.float().t(), self.image_queue.clone().detach()], dim=1)
            text_feat_all = torch.cat([text_feat_m.float().t(), self.text_queue.clone().detach()], dim=1)
            ids = batch.tile_ids.view(-1, 1)
            positives = torch.eq(ids, torch.cat([ids.t(), self.ids_queue.clone().detach()], dim=1)).float()
            positives = positives / positives.sum(1, keepdim=True)
            soft_i2t = F.softmax(image_feat_m.float() @ text_feat_all / temperature, dim=1)
            soft_t2i = F.softmax(text_feat_m.float() @ image_feat_all / temperature, dim=1)
            targets_i2t = alpha * soft_i2t + (1 - alpha) * positives
            targets_t2i = alpha * soft_t2i + (1 - alpha) * positives
        sim_i2t = image_feat.float() @ text_feat_all / temperature
        sim_t2i = text_feat.float() @ image_feat_all / temperature
        loss_i2t = -torch.sum(F.log_softmax(sim_i2t, dim=1) * targets_i2t, dim=1).mean()
        loss_t2i = -torch.sum(F.log_softmax(sim_t2i, dim=1) * targets_t2i, dim=1).mean()
        self._dequeue_and_enqueue(image_feat_m.float(), text_feat_m.float(), ids)
        itm = self._matching(batch, text, text_mask, image_embeds, image_feat, text_feat)
        return (loss_i2t + loss_t2i) / 2, itm, self._infilling(batch, image_embeds)

    @torch.no_grad()
    def update_momentum(self, momentum: float) -> None:
        """Update the momentum weights, one after the other."""
        for own, other in zip(self.momentum.parameters(), self.network.parameters(), strict=True):
            own.data = own.data * momentum + other.data * (1.0 - momentum)

    def _matching(
        self,
        batch: ImageTextBatch,
        text: Tensor,
        mask: Tensor,
        image_embeds: Tensor,
        image_feat: Tensor,
        text_feat: Tensor,
    ) -> Tensor:
        rows, network = len(text), self.network
        output_pos = network.text_tower(
            input_ids=text, attention_mask=mask, encoder_hidden_states=image_embeds
        ).last_hidden_state
        with torch.no_grad():
            temperature = network.log_temperature.exp()
            same = torch.eq(batch.tile_ids.view(-1, 1), batch.tile_ids.view(1, -1))
            sim_i2t = image_feat.float() @ text_feat.float().t() / temperature
            weights_i2t = F.softmax(sim_i2t.double().masked_fill(same, -torch.inf), dim=1)
            weights_t2i = F.softmax(sim_i2t.t().double().masked_fill(same, -torch.inf), dim=1)
        image_neg, text_neg, mask_neg = [], [], []
        order = batch.tile_ids.argsort().tolist()
        for b in range(rows):
            chosen = _draw(weights_t2i[b], order, float(batch.draws[b, 1]))
            image_neg.append(image_embeds[chosen])
        for b in range(rows):
            chosen = _draw(weights_i2t[b], order, float(batch.draws[b, 0]))
            text_neg.append(text[chosen])
            mask_neg.append(mask[chosen])
        output_neg = network.text_tower(
            input_ids=torch.cat([text, torch.stack(text_neg)]),
            attention_mask=torch.cat([mask, torch.stack(mask_neg)]),
            encoder_hidden_states=torch.cat([torch.stack(image_neg), image_embeds]),
        ).last_hidden_state
        logits = network.matching_head(torch.cat([output_pos[:, 0], output_neg[:, 0]]))
        labels = torch.cat([torch.ones(rows), torch.zeros(2 * rows)]).long().to(self.device)
        return F.cross_entropy(logits.float(), labels)

    def _infilling(self, batch: ImageTextBatch, image_embeds: Tensor) -> Tensor:
        masked, mask = self._padded(batch.masked, 0), self._padded(batch.masked_mask, 0)
        context = self.network.text_tower(
            input_ids=masked, attention_mask=mask, encoder_hidden_states=image_embeds
        ).last_hidden_state
        image_mask = mask.new_ones(image_embeds.shape[:2])
        logits = self.network.decoder(
            input_ids=self._padded(batch.decoder_input, 0),
            attention_mask=self._padded(torch.ones_like(batch.decoder_input), 0),
            encoder_hidden_states=torch.cat([image_embeds, self.network.context_projection(context)], dim=1),
            encoder_attention_mask=torch.cat([image_mask, mask], dim=1),
            is_decoder=True,
            use_cache=False,
        ).logits
        labels = self._padded(batch.decoder_labels, IGNORE_INDEX)
        return F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE_INDEX)

    def _padded(self, rows: Tensor, value: int) -> Tensor:
        return F.pad(rows, (0, self.max_tokens - rows.shape[1]), value=value)

    def _dequeue_and_enqueue(self, image: Tensor, text: Tensor, ids: Tensor) -> None:
        slots = (self.next_slot + torch.arange(len(image))) % self.image_queue.shape[1]
        self.image_queue[:, slots], self.text_queue[:, slots] = image.t(), text.t()
        self.ids_queue[:, slots] = ids.t()
        self.next_slot = int(slots[-1]) + 1


def _draw(weights: Tensor, order: list[int], uniform: float) -> int:
    """Sample as torch.multinomial does, by a given uniform number; candidates are ordered by id."""
    ordered = weights[order].cumsum(0)
    return order[int(torch.searchsorted(ordered, uniform * ordered[-1], right=True).item())]
