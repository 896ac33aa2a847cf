"""A row of the score table, from which tests make others."""

from __future__ import annotations

from bundle.skull_implant.scores.score_table import Score

GOOD = Score("validation", "008", "official", "official", "VAE", 0.9, 0.8, 2.0, False, 0.95, 40.0, "cranial", 3.0)
