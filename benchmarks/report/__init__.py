"""The report of what was measured, and its picture."""
