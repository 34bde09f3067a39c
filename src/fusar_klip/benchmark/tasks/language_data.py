"""The data of a language row: texts built from its reader's labels, or read from files."""

from pathlib import Path

from fusar_klip.benchmark.tasks.language_rows import LanguageRow, VqaRow
from fusar_klip.datasets.label_texts.label_texts import build_texts, labelled
from fusar_klip.datasets.label_texts.records import LanguageData, read_records
from fusar_klip.errors import DatasetError


def read_language(row: LanguageRow, path: Path) -> LanguageData:
    """Read a row's images, captions and questions.

    Raises:
        DatasetNotFoundError: There is no such folder.
        DatasetError: The layout is not the reader's, there is no split, or a part is empty.
    """
    if row.reader == "label_texts":
        data = read_records(path, row.dataset)
    else:
        data = build_texts(labelled(row.reader, path, row, row.split_file), row)
    for part in ("train", "test"):
        if not len(data.part(part)) or (isinstance(row, VqaRow) and not data.asked(part)):
            what = "questions" if isinstance(row, VqaRow) else "images"
            raise DatasetError(f"{row.dataset} at {path} has no {part} {what}: check its split")
    if len(data.part("test")) < 2 or len(data.part("train")) < 2:
        raise DatasetError(f"{row.dataset} at {path} has a part of one image: at least two are needed")
    return data
