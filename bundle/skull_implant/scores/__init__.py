"""Scores of implants and skulls, tables and figures of them."""
