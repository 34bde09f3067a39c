"""Readers of public data sets and of common formats: they list images with their truth, and open none.

`catalogue.py` is the table of them all.
"""
