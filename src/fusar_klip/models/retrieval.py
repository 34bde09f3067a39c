"""Recall of retrieval between paired images and texts."""

import numpy as np
import numpy.typing as npt


def recall_at(similarity_nn: npt.NDArray[np.float32], ks: tuple[int, ...] = (1, 5, 10)) -> dict[int, float]:
    """Return the share of rows whose own column is among the k most similar, for each k, in 0 to 1.

    Args:
        similarity_nn: (N, N); row i belongs to column i. A column as similar as the own one counts as
            before it, so that a model that tells nothing apart scores 0 and not 1.
        ks: How many columns count as found.
    """
    own_n1 = np.diagonal(similarity_nn)[:, None]
    # The own column is as similar as itself, hence ranks start at 1.
    rank_n = (similarity_nn >= own_n1).sum(1)
    return {k: float((rank_n <= k).mean()) if len(rank_n) else 0.0 for k in ks}
