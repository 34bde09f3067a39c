"""Export of a data set to STAC, WebDataset shards or Hugging Face Parquet."""

from fusar_klip.export.formats import ExportSummary, Format, export

__all__ = ["ExportSummary", "Format", "export"]
