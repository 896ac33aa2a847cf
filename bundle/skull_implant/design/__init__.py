"""From a completed skull to an implant: holes, seam, and how well it fits."""
