from collections import deque

import torch
from hypothesis import given
from hypothesis import strategies as st

from fusar_klip.models.network.queue import FeatureQueue


@given(size=st.integers(0, 9), batches=st.lists(st.integers(1, 12), max_size=8))
def test_the_queue_holds_the_latest_pairs_whatever_the_batch_sizes(size: int, batches: list[int]) -> None:
    queue, expected, number = FeatureQueue(size, 2), deque(maxlen=size), 0
    for batch in batches:
        ids = torch.arange(number, number + batch)
        features = torch.stack([ids, -ids], dim=1).float()
        queue.enqueue(features, features + 0.5, ids)
        expected.extend(ids.tolist())
        number += batch
    assert sorted(queue.ids_q.tolist()) == sorted(expected)
    # Image, text and id of a pair stay in one place.
    assert torch.equal(queue.image_qe[:, 0], queue.ids_q.float())
    assert torch.equal(queue.text_qe[:, 0], queue.ids_q + 0.5)


def test_a_restored_queue_goes_on_in_the_same_place() -> None:
    queue, other = FeatureQueue(5, 2), FeatureQueue(5, 2)
    queue.enqueue(torch.ones(3, 2), torch.ones(3, 2), torch.arange(3))
    other.load_state({name: tensor.clone() for name, tensor in queue.state().items()})
    for one in (queue, other):
        one.enqueue(torch.zeros(4, 2), torch.zeros(4, 2), torch.arange(10, 14))
    assert torch.equal(queue.ids_q, other.ids_q)
    assert torch.equal(queue.image_qe, other.image_qe)
