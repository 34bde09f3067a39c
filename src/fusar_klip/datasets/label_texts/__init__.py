"""Captions and questions made from the labels of a data set (paper 4.4)."""
