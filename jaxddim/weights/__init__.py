"""Weights from files of other libraries."""
