"""The verb `describe`: a data set in, a version of its texts out, by whoever is to write them."""

from pathlib import Path

import numpy as np
import pandas as pd

from fusar_klip.catalog import TEXT_SCHEMA, text_versions, write_texts
from fusar_klip.errors import DatasetError, SettingsError
from fusar_klip.texts.measured import MEASURE_VERSION, measure_dataset
from fusar_klip.texts.outcomes import Described, Outcomes
from fusar_klip.texts.settings import DescribeSettings
from fusar_klip.texts.summary import DescribeEstimate, DescribeSummary
from fusar_klip.texts.template import PROMPT_VERSION as TEMPLATE_VERSION
from fusar_klip.texts.template import template_texts

VERSION = "v000"
DEFAULTS = DescribeSettings()


def describe(dataset: Path, settings: DescribeSettings = DEFAULTS) -> DescribeSummary:
    """Write a text version: eight sentences for every kept tile.

    `measure` writes v000, the others the next free version; where that would hold the texts of a version that
    is there, they write none.

    Raises:
        SettingsError: The settings do not fit together.
        ProviderError: The language model cannot be asked, or some tiles got no answer.
        BudgetError: The budget is used up.
        DatasetError: There is no finished data set, it holds no kept tile or, for `measure`, has texts
            already, or a tile cannot be read.
    """
    if settings.provider == "measure":
        return _by_measure(dataset, settings)
    if settings.provider == "template":
        return _by_template(dataset, settings)
    # The client takes a second to import, which measuring does not need.
    from fusar_klip.texts.by_model import describe_by_model

    return describe_by_model(dataset, settings)


def estimate(dataset: Path, settings: DescribeSettings) -> DescribeEstimate:
    """Tell how many requests and tokens `describe` would take, and what they would cost; ask nobody.

    The measurements that the prompts need are made, and kept for the run itself. Needs no API key.

    Raises:
        SettingsError: The provider has no price, or the settings do not fit together.
        DatasetError: There is no finished data set, or something in it cannot be read.
    """
    from fusar_klip.texts.by_model import estimate_by_model

    return estimate_by_model(dataset, settings)


def _by_measure(dataset: Path, settings: DescribeSettings) -> DescribeSummary:
    if VERSION in text_versions(dataset):
        raise DatasetError(
            f"{dataset} has texts {VERSION} already, and a text version is never edited: remove "
            f"{dataset / 'texts'} to describe all tiles anew"
        )
    rows = [
        {"tile_id": measured.tile.tile_id, "task": measured.task, "field": field, "text": text}
        for family in measure_dataset(dataset, settings.workers)
        for measured in family
        for field, text in measured.fields.items()
    ]
    texts = pd.DataFrame(rows).assign(
        source="measure", prompt_version=MEASURE_VERSION, verdict="original", previous=None
    )
    texts = texts.assign(delta_itc=np.nan, delta_itm=np.nan, itm_score=np.nan)[TEXT_SCHEMA.names]
    maker = {"verb": "describe", "provider": settings.provider, "prompt_version": MEASURE_VERSION}
    path = write_texts(dataset, VERSION, texts, parent=None, maker=maker)
    by_task = texts.drop_duplicates("tile_id")["task"].value_counts().sort_index()
    return DescribeSummary(
        dataset=str(dataset),
        version=VERSION,
        path=str(path),
        tiles=int(texts["tile_id"].nunique()),
        texts=len(texts),
        by_task={str(task): int(count) for task, count in by_task.items()},
    )


def _by_template(dataset: Path, settings: DescribeSettings) -> DescribeSummary:
    if settings.annotations is None:
        raise SettingsError("the provider template needs annotations: give --annotations GEOJSON")
    outcomes = Outcomes()
    for text in template_texts(dataset, settings.annotations):
        outcomes.receive(Described(text.tile_id, text.task, text.fields, ()))
    maker = {"verb": "describe", "provider": settings.provider, "prompt_version": TEMPLATE_VERSION}
    version = outcomes.write(dataset, source="template", prompt_version=TEMPLATE_VERSION, maker=maker)
    tiles = outcomes.counts.described
    outcomes.close()
    return DescribeSummary(
        dataset=str(dataset),
        version=version,
        path=str(dataset / "texts" / f"{version}.parquet"),
        tiles=tiles,
        texts=8 * tiles,
        by_task=dict(sorted(outcomes.counts.by_task.items())),
    )
