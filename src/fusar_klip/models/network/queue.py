"""The queue of momentum features that ITC contrasts a batch with (paper 4.1: 20,000 image-text features)."""

import torch
from torch import Tensor

# B batch, Q filled part of the queue, E embed_dim


class FeatureQueue:
    """A ring buffer of paired features that wraps at any batch size (decisions.md, "Queue").

    It starts empty, so that every negative in a loss is a feature of a real pair.

    Args:
        size: Pairs kept; 0 keeps none.
        embed_dim: Length of a feature.
        device: Where the features are stored.
    """

    def __init__(self, size: int, embed_dim: int, device: torch.device | str = "cpu") -> None:
        self.size = size
        self.count = 0
        self._next = 0
        self._image_se = torch.zeros(size, embed_dim, device=device)
        self._text_se = torch.zeros(size, embed_dim, device=device)
        self._ids_s = torch.full((size,), -1, dtype=torch.int64, device=device)

    @property
    def image_qe(self) -> Tensor:
        """(Q, E) float32, normalised: the image features kept so far."""
        return self._image_se[: self.count]

    @property
    def text_qe(self) -> Tensor:
        """(Q, E) float32, normalised: the text features kept so far."""
        return self._text_se[: self.count]

    @property
    def ids_q(self) -> Tensor:
        """(Q,) int64: the image that each pair belongs to."""
        return self._ids_s[: self.count]

    @torch.no_grad()
    def enqueue(self, image_be: Tensor, text_be: Tensor, ids_b: Tensor) -> None:
        """Replace the oldest features by a batch of normalised ones; call it after the loss."""
        kept = min(len(ids_b), self.size)
        if not kept:
            return
        places = (self._next + torch.arange(kept, device=ids_b.device)) % self.size
        for store, batch in ((self._image_se, image_be), (self._text_se, text_be), (self._ids_s, ids_b)):
            store[places] = batch[-kept:].to(store.dtype)
        self._next = (self._next + kept) % self.size
        self.count = min(self.count + kept, self.size)

    def state(self) -> dict[str, Tensor]:
        """Return the state that `load_state` restores exactly."""
        place = torch.tensor([self.count, self._next])
        return {"image": self._image_se, "text": self._text_se, "ids": self._ids_s, "place": place}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Restore `state`."""
        self._image_se.copy_(state["image"])
        self._text_se.copy_(state["text"])
        self._ids_s.copy_(state["ids"])
        self.count, self._next = state["place"].tolist()
