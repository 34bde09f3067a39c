"""The verb `describe`: writes a version of the texts of a data set with the chosen provider."""

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from fusar_klip.errors import SettingsError
from fusar_klip.texts.measure.measure_dataset import MEASURE_VERSION, measure_dataset
from fusar_klip.texts.settings import DescribeSettings, ProviderName
from fusar_klip.texts.summary import DescribeEstimate, DescribeSummary
from fusar_klip.texts.template import PROMPT_VERSION as TEMPLATE_VERSION
from fusar_klip.texts.template import template_texts
from fusar_klip.texts.text_writer import DescribedTile, TextWriter

DEFAULTS = DescribeSettings()


def describe(dataset: Path, settings: DescribeSettings = DEFAULTS) -> DescribeSummary:
    """Write a text version: a sentence for each field of every kept tile.

    The version gets the next free number. If an earlier version has the same texts, none is written.

    Raises:
        SettingsError: The settings contradict each other.
        ProviderError: The language model does not answer, or some tiles have no answer.
        BudgetError: The budget is used up.
        DatasetError: There is no finished data set, it holds no kept tile, or a tile cannot be read.
    """
    if settings.provider == "measure":
        return _describe_by_rules(dataset, settings)
    if settings.provider == "template":
        return _describe_by_template(dataset, settings)
    # Imported here, because the client takes a second to import, and rule-based texts do not need it.
    from fusar_klip.texts.hcot.hcot import describe_with_llm

    return describe_with_llm(dataset, settings)


def estimate(dataset: Path, settings: DescribeSettings) -> DescribeEstimate:
    """Estimate the requests, tokens and cost of `describe`; send no requests.

    The tiles are measured, because prompts need the evidence, which is kept for the run. Needs no API key.

    Raises:
        SettingsError: The provider has no price, or the settings do not fit together.
        DatasetError: There is no finished data set, or something in it cannot be read.
    """
    from fusar_klip.texts.hcot.hcot import estimate_with_llm

    return estimate_with_llm(dataset, settings)


def _describe_by_rules(dataset: Path, settings: DescribeSettings) -> DescribeSummary:
    texts = (
        DescribedTile(measured.tile.tile_id, measured.task, measured.fields, ())
        for pyramid in measure_dataset(dataset, settings.workers)
        for measured in pyramid
    )
    return _write_version(dataset, texts, "measure", MEASURE_VERSION)


def _describe_by_template(dataset: Path, settings: DescribeSettings) -> DescribeSummary:
    if settings.annotations is None:
        raise SettingsError("the provider template needs annotations: give --annotations GEOJSON")
    texts = (
        DescribedTile(text.tile_id, text.task, text.fields, ())
        for text in template_texts(dataset, settings.annotations)
    )
    return _write_version(dataset, texts, "template", TEMPLATE_VERSION)


def _write_version(
    dataset: Path, texts: Iterable[DescribedTile], provider: ProviderName, prompt_version: str
) -> DescribeSummary:
    """Write a version of the texts, or find the one that has the same."""
    with closing(TextWriter()) as writer:
        for text in texts:
            writer.add(text)
        maker = {"verb": "describe", "provider": provider, "prompt_version": prompt_version}
        version = writer.write(dataset, source=provider, prompt_version=prompt_version, maker=maker)
        counts = writer.counts
    return DescribeSummary(
        dataset=str(dataset),
        version=version,
        path=str(dataset / "texts" / f"{version}.parquet"),
        tiles=counts.described,
        texts=counts.texts,
        by_task=dict(sorted(counts.by_task.items())),
    )
