"""Cranial implant design with a two-stage beta-VAE: from a head CT with a hole to an implant that fits."""
