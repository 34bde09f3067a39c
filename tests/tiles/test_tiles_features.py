import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from skimage.feature import graycomatrix
from skimage.measure import shannon_entropy

from fusar_klip.catalog import FEATURES
from fusar_klip.tiles.screening.texture_features import tile_features
from fusar_klip.tiles.settings import QualitySettings

ANGLES = (0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)


def plain_glcm(tile: NDArray[np.uint8], distances: tuple[int, ...], bins: int) -> dict[str, float | None]:
    """The plain way: scikit-image on the tile alone, no data as a level of its own, graycoprops' formulas."""
    binned = np.where(tile > 0, (tile.astype(int) - 1) * bins // 255, bins).astype(np.uint8)
    counts = graycomatrix(binned, distances, ANGLES, levels=bins + 1, symmetric=True)[:bins, :bins]
    i, j = np.mgrid[:bins, :bins]
    found: dict[str, list[float]] = {}
    for d in range(len(distances)):
        for a in range(4):
            if (total := counts[..., d, a].sum()) == 0:
                continue
            p = counts[..., d, a] / total
            mean = (i * p).sum()
            variance = ((i - mean) ** 2 * p).sum()
            values = {
                "contrast": ((i - j) ** 2 * p).sum(),
                "dissimilarity": (abs(i - j) * p).sum(),
                "homogeneity": (p / (1 + (i - j) ** 2)).sum(),
                "energy": np.sqrt((p**2).sum()),
                "entropy": -(p[p > 0] * np.log2(p[p > 0])).sum(),
            }
            if np.count_nonzero(p.sum(axis=0)) > 1:
                values["correlation"] = ((i - mean) * (j - mean) * p).sum() / variance
            for name, value in values.items():
                found.setdefault(f"glcm_{name}", []).append(value)
    return {
        name: float(np.mean(found[name])) if name in found else None for name in FEATURES if "glcm" in name
    }


def plain_statistics(tile: NDArray[np.uint8]) -> dict[str, float | None]:
    values = tile[tile > 0].astype(float)
    if not values.size:
        return dict.fromkeys(
            ("mean", "std", "cv", "skewness", "kurtosis", "entropy", "dynamic_range", "enl")
        ) | {"nodata_fraction": 1.0}
    varied = values.min() < values.max()
    intensity = values**2
    low, high = np.percentile(values, (1, 99), method="inverted_cdf")
    return {
        "mean": values.mean(),
        "std": values.std(),
        "cv": stats.variation(values),
        "skewness": stats.skew(values) if varied else None,
        "kurtosis": stats.kurtosis(values) if varied else None,
        "entropy": shannon_entropy(values),
        "dynamic_range": high - low,
        "enl": (intensity.mean() / intensity.std()) ** 2 if varied else None,
        "nodata_fraction": (tile == 0).mean(),
    }


def plain_edge_density(tile: NDArray[np.uint8]) -> float | None:
    rows, cols = tile.shape[0] // 8, tile.shape[1] // 8
    means = np.full((rows, cols), np.nan)
    for r in range(rows):
        for c in range(cols):
            cell = tile[8 * r : 8 * r + 8, 8 * c : 8 * c + 8]
            if (cell > 0).sum() >= 32:
                means[r, c] = cell[cell > 0].mean()
    pairs = [(means[r, c], means[r + 1, c]) for r in range(rows - 1) for c in range(cols)]
    pairs += [(means[r, c], means[r, c + 1]) for r in range(rows) for c in range(cols - 1)]
    ratios = [max(pair) / min(pair) for pair in pairs if np.isfinite(pair).all()]
    return float(np.mean([ratio >= 1.5 for ratio in ratios])) if ratios else None


def plain_striping(tile: NDArray[np.uint8]) -> float | None:
    shares = []
    for turned in (tile, tile.T):
        common = energy = lines = 0.0
        for before, after in zip(turned[:-1].astype(float), turned[1:].astype(float), strict=True):
            difference = (after - before)[(before > 0) & (after > 0)]
            if len(difference) >= len(tile) / 2:
                common += difference.sum() ** 2 / len(difference)
                energy += (difference**2).sum()
                lines += 1
        if lines:
            shares.append(common / energy if energy else 0.0)
    return max(shares, default=None)


def plain(tile: NDArray[np.uint8], distances: tuple[int, ...] = (1, 2, 4), bins: int = 32) -> dict:
    return {
        **plain_statistics(tile),
        "edge_density": plain_edge_density(tile),
        "striping": plain_striping(tile),
        **plain_glcm(tile, distances, bins),
    }


def assert_same(measured: dict, expected: dict) -> None:
    assert set(measured) == set(FEATURES) == set(expected)
    for name, value in expected.items():
        if value is None:
            assert measured[name] is None, name
        else:
            assert measured[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name


def block(height: int, width: int, seed: int, holes: float, spread: float) -> NDArray[np.uint8]:
    """Correlated speckle with a rectangle and scattered pixels of no data."""
    rng = np.random.default_rng(seed)
    looks = rng.rayleigh(spread, (height, width)) + 0.3 * rng.rayleigh(spread, (height, 1))
    levels = np.clip(np.rint(looks), 1, 255).astype(np.uint8)
    levels[rng.random((height, width)) < holes**3] = 0
    top, left = rng.integers(0, height), rng.integers(0, width)
    levels[top : top + int(holes * height), left : left + int(holes * width)] = 0
    return levels


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    small=st.integers(3, 21),
    holes=st.floats(0, 1),
    spread=st.sampled_from([0.3, 3.0, 30.0, 200.0]),
)
def test_nested_tiles_are_measured_as_if_each_were_alone(
    seed: int, small: int, holes: float, spread: float
) -> None:
    levels = block(4 * small, 4 * small, seed, holes, spread)
    windows = [
        (row * side, col * side, side)
        for side in (4 * small, 2 * small, small)
        for row in range(4 * small // side)
        for col in range(4 * small // side)
    ]
    for (top, left, side), measured in zip(windows, tile_features(levels, windows), strict=True):
        assert_same(measured, plain(levels[top : top + side, left : left + side]))


@settings(max_examples=30, deadline=None)
@given(data=st.data(), seed=st.integers(0, 10**6), holes=st.floats(0, 0.9))
def test_windows_that_overlap_at_will(data: st.DataObject, seed: int, holes: float) -> None:
    height, width = data.draw(st.integers(4, 40)), data.draw(st.integers(4, 40))
    levels = block(height, width, seed, holes, 40.0)
    windows = []
    for _ in range(data.draw(st.integers(1, 4))):
        side = data.draw(st.integers(1, min(height, width)))
        windows.append(
            (data.draw(st.integers(0, height - side)), data.draw(st.integers(0, width - side)), side)
        )
    chosen = QualitySettings(glcm_levels=16, glcm_distances=(1, 3))
    for (top, left, side), measured in zip(windows, tile_features(levels, windows, chosen), strict=True):
        assert_same(measured, plain(levels[top : top + side, left : left + side], (1, 3), 16))


def test_a_tile_without_data_and_a_constant_one() -> None:
    empty, constant = np.zeros((32, 32), np.uint8), np.full((32, 32), 7, np.uint8)
    (measured,) = tile_features(empty, [(0, 0, 32)])
    assert measured.pop("nodata_fraction") == 1
    assert set(measured.values()) == {None}
    (measured,) = tile_features(constant, [(0, 0, 32)])
    assert {name for name, value in measured.items() if value is None} == {
        "skewness",
        "kurtosis",
        "enl",
        "glcm_correlation",
    }
    assert measured["std"] == measured["entropy"] == measured["glcm_entropy"] == measured["striping"] == 0
    assert measured["glcm_energy"] == measured["glcm_homogeneity"] == 1


def test_no_windows() -> None:
    assert tile_features(np.ones((8, 8), np.uint8), []) == []


def test_the_number_of_looks_of_even_ground_is_that_of_its_speckle() -> None:
    rng = np.random.default_rng(1)
    for looks in (1, 4):
        intensity = rng.gamma(looks, 1 / looks, (512, 512))
        levels = np.clip(np.rint(40 * np.sqrt(intensity)), 1, 255).astype(np.uint8)
        (measured,) = tile_features(levels, [(0, 0, 512)])
        assert measured["enl"] == pytest.approx(looks, rel=0.05)
        assert measured["edge_density"] == pytest.approx(0, abs=0.001)


def test_stripes_stand_out_whichever_way_they_run() -> None:
    levels = block(128, 128, 0, 0.0, 40.0) // 2 + 1
    striped = levels.copy()
    striped[::2] = striped[::2] // 4 + 1
    (clean,), (rows,), (cols,) = (tile_features(x, [(0, 0, 128)]) for x in (levels, striped, striped.T))
    assert clean["striping"] < 0.1 < 0.4 < rows["striping"]
    assert rows["striping"] == pytest.approx(cols["striping"])
