"""Whole archives: many cases, resumable, in worker processes."""
