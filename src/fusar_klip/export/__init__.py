"""Data sets in the shapes that others read: STAC, WebDataset, Hugging Face Parquet."""

from fusar_klip.export.formats import ExportSummary, Format, export

__all__ = ["ExportSummary", "Format", "export"]
