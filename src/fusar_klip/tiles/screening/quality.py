"""Tile quality: a k-nearest-neighbour classifier on texture and statistics (paper 3.1, step 5).

A small labelled set classifies the rest of the catalog. Rules label the clearly bad and the clearly good
tiles, or the user labels tiles in a CSV (`quality.labels`). All other tiles are classified by the labelled
tiles that are most similar. Nothing is deleted: `quality` and `kept` are columns.

A uniform tile is not a bad one: open sea, with or without a ship, is of good quality, and screening decides
whether to keep it. Receiver noise with the distribution of speckle cannot be distinguished from calm sea.
"""

import csv
import logging
from collections.abc import Mapping
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fusar_klip.catalog import FEATURES
from fusar_klip.errors import SettingsError
from fusar_klip.tiles.settings import QualitySettings

MOST_LABELLED = 500
"""Labelled tiles of each class at most: evenly spaced in the order of the tile ids."""
BAD_RULES: Mapping[str, str] = {
    "nearly empty": "nodata_fraction > 0.75",
    "blank": "entropy < 1 or dynamic_range <= 2",
    "saturated": "mean > 230",
    "stripes": "striping > 0.2",
    # Speckle so rough (under 2 looks, linear) has a skewness of 0.6; in dB it is skewed the other way.
    "noise without structure": "glcm_correlation < 0.05 and ((cv > 0.4 and -0.3 < skewness < 0.2) or cv > 1)",
}
"""What makes a tile plainly bad; any one does. Levels are those of the 8-bit tile."""
GOOD_RULE = (
    "nodata_fraction < 0.25 and entropy > 2 and dynamic_range > 8 and mean < 200 and striping < 0.12 "
    "and (glcm_correlation > 0.1 or cv < 0.4 or 0.4 < skewness)"
)
"""What makes a tile plainly good, if no rule of the bad applies."""
_MOST_DEVIATIONS = 4.0
_MISSING = -1

log = logging.getLogger(__name__)


def classify_quality(
    tiles: gpd.GeoDataFrame, settings: QualitySettings
) -> tuple["pd.Series[float]", "pd.Series[bool]"]:
    """Return the quality (0 to 1) of all tiles of a catalog, and whether each is good.

    A labelled tile keeps its label. The neighbours of any other are the k nearest labelled tiles, in features
    that are standardised by those of the labelled set and cut off at 4 standard deviations. Where there are
    fewer labelled tiles than k, all vote; where they are all of one class, all
    other tiles are good.

    Args:
        tiles: With the columns tile_id, path and `catalog.FEATURES`.
        settings: k, the votes' weights, the threshold, the user's labels.

    Returns:
        The votes' share that says good, 0 to 1, and whether it reaches the threshold; indexed as `tiles`.

    Raises:
        SettingsError: The user's labels cannot be read, or name no tile of this catalog.
    """
    labels = _labels(tiles, settings)
    labelled = _thinned(tiles["tile_id"].to_numpy(), labels)
    votes = np.ones(len(tiles))
    if len(np.unique(labels[labelled])) == 2:
        votes = _votes(_standardised(tiles, labelled), labels, labelled, settings)
    quality = np.where(labels == _MISSING, votes, labels)
    return (
        pd.Series(quality, tiles.index, dtype=float, name="quality"),
        pd.Series(quality >= settings.threshold, tiles.index, name="good"),
    )


def _labels(tiles: pd.DataFrame, settings: QualitySettings) -> NDArray[np.int8]:
    """Label tiles 1 (good), 0 (bad) or -1 (neither): by the user's list, or a class it lacks by rule."""
    by_rule = _labels_by_rule(tiles)
    if settings.labels is None:
        return by_rule
    said = read_labels(settings.labels)
    names = tiles["tile_id"].map(said).fillna(tiles["path"].map(said))
    labels = np.select([names == "good", names == "bad"], [1, 0], _MISSING).astype(np.int8)
    if (labels == _MISSING).all():
        raise SettingsError(
            f"quality.labels: none of the tiles in {settings.labels} is in the data set: give tile ids or "
            "paths as tiles.parquet lists them"
        )
    unknown = len(set(said) - set(tiles["tile_id"]) - set(tiles["path"]))
    if unknown:
        log.info("%s names %d tiles that are not in the data set", settings.labels, unknown)
    for label in {0, 1} - set(labels.tolist()):
        labels[(labels == _MISSING) & (by_rule == label)] = label
    return labels


def _labels_by_rule(tiles: pd.DataFrame) -> NDArray[np.int8]:
    features = tiles[list(FEATURES)].astype(float)  # a comparison with a missing value is false
    bad = [np.asarray(features.eval(rule), bool) for rule in BAD_RULES.values()]
    bad.append(np.asarray(features["mean"].isna()))
    good = np.asarray(features.eval(GOOD_RULE), bool)
    return np.select([np.logical_or.reduce(bad), good], [0, 1], _MISSING).astype(np.int8)


def read_labels(path: Path) -> dict[str, str]:
    """Read {tile: "good" or "bad"} from a CSV with the columns tile and label.

    Raises:
        SettingsError: It cannot be read, lacks a column, or has another label.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"quality.labels: cannot read {path} ({error}): give a CSV file") from error
    if not rows or not {"tile", "label"} <= set(rows[0]):
        raise SettingsError(
            f"quality.labels: {path} needs the columns tile (tile_id or path) and label (good or bad)"
        )
    said = {(row["tile"] or "").strip(): (row["label"] or "").strip().lower() for row in rows}
    wrong = next((label for label in said.values() if label not in ("good", "bad")), None)
    if wrong is not None:
        raise SettingsError(f'quality.labels: a label in {path} is "{wrong}": write good or bad')
    return said


def _thinned(tile_ids: NDArray[np.object_], labels: NDArray[np.int8]) -> NDArray[np.intp]:
    """Choose the labelled tiles that vote, in the order of their ids: the order of the rows has no say."""
    chosen = []
    for label in (0, 1):
        of_class = np.flatnonzero(labels == label)
        of_class = of_class[np.argsort(tile_ids[of_class].astype(str), kind="stable")]
        step = np.linspace(0, len(of_class), min(len(of_class), MOST_LABELLED), endpoint=False)
        chosen.append(of_class[step.astype(np.intp)])
    return np.concatenate(chosen)


def _standardised(tiles: pd.DataFrame, labelled: NDArray[np.intp]) -> NDArray[np.float64]:
    """Return (N, features) in standard deviations of the labelled set; what is missing is at its mean."""
    features = tiles[list(FEATURES)].to_numpy(np.float64)
    known = np.ma.masked_invalid(features[labelled])
    mean = known.mean(axis=0).filled(0.0)
    deviation = known.std(axis=0).filled(0.0)
    scaled = (features - mean) / np.where(deviation > 0, deviation, 1.0)
    scaled = np.clip(scaled, -_MOST_DEVIATIONS, _MOST_DEVIATIONS)
    return np.where(np.isnan(scaled), 0.0, scaled)


def _votes(
    features: NDArray[np.float64],
    labels: NDArray[np.int8],
    labelled: NDArray[np.intp],
    settings: QualitySettings,
) -> NDArray[np.float64]:
    """Return the share of the neighbours' votes that say good."""
    from sklearn.neighbors import KNeighborsClassifier

    vote = KNeighborsClassifier(min(settings.neighbours, len(labelled)), weights=settings.weights)
    vote.fit(features[labelled], labels[labelled])
    share: NDArray[np.float64] = vote.predict_proba(features)[:, 1]
    return share
