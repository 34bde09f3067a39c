"""Labelled data sets: readers of public sets and common formats, splits, near-duplicates, texts from labels.

`registry.py` lists all data sets; `loading.py` reads and splits one.
"""
