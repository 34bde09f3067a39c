"""Word clouds and scatter plots as PNG bytes, for light and dark pages."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from wordcloud import STOPWORDS, WordCloud

GROUP_COLOURS = ("#2f86c9", "#d9722a", "#1f9e77", "#c2629b", "#a08a12", "#7d6fd0")
"""Mid tones that colour-blind readers distinguish, visible on white and on black."""
_UNITS = ("km", "px", "db", "pixels")
_CLOUD_PX = (900, 420)


def word_cloud(words: Mapping[str, int]) -> bytes | None:
    """Draw the words by frequency (figure 8, a and b); None if there are only stop words."""
    shown = {
        word: n
        for word, n in words.items()
        if len(word) > 1 and not word[0].isdigit() and word not in STOPWORDS and word not in _UNITS
    }
    if not shown:
        return None
    # Colour by the word itself, so that a word has one colour in every cloud.
    cloud = WordCloud(
        width=_CLOUD_PX[0],
        height=_CLOUD_PX[1],
        mode="RGBA",
        background_color=None,
        random_state=0,
        prefer_horizontal=0.95,
        max_words=120,
        relative_scaling=0.4,
        color_func=lambda word, **_: GROUP_COLOURS[sum(word.encode()) % len(GROUP_COLOURS)],
    ).generate_from_frequencies(dict(sorted(shown.items(), key=lambda item: (-item[1], item[0]))))
    encoded = io.BytesIO()
    cloud.to_image().save(encoded, "PNG", optimize=True)
    return encoded.getvalue()


def scatter(positions: NDArray[np.float64], groups: NDArray[np.int_]) -> bytes:
    """Draw (N, 2) positions in 0 to 1, coloured by (N,) group."""
    figure = Figure(figsize=(4.4, 4.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    colours: Sequence[str] = [GROUP_COLOURS[group % len(GROUP_COLOURS)] for group in groups]
    size = float(np.clip(9000 / max(len(groups), 1), 6, 40))
    axes.scatter(positions[:, 0], positions[:, 1], s=size, c=colours, alpha=0.75, linewidths=0)
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png", dpi=130, transparent=True, metadata={"Software": None})
    return encoded.getvalue()
