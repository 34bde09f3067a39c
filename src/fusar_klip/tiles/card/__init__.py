"""The data card of a data set and its pictures."""
