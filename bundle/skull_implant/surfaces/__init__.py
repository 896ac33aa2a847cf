"""Surfaces to print, and pictures to look at."""
