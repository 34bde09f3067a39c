"""Expert review of a sample of the texts (paper 4.2, figure 9): review pages, and accuracy of the answers.

`make_pages` writes self-contained HTML pages of a sample of tiles; `read_answers` turns the files that the
pages save into an accuracy per field with confidence intervals, `accuracy_html` plots it.
"""

from fusar_klip.texts.review.accuracy import FieldAccuracy, ReviewResult, read_answers
from fusar_klip.texts.review.accuracy_page import accuracy_html
from fusar_klip.texts.review.pages import ReviewPages, make_pages

__all__ = ["FieldAccuracy", "ReviewPages", "ReviewResult", "accuracy_html", "make_pages", "read_answers"]
