"""Fixtures of the tests of `scio`."""

from blob_dataset import blobs, one_thread, write_blobs

__all__ = ["blobs", "one_thread", "write_blobs"]
