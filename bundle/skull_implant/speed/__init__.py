"""Seconds and memory: benchmarks of inference and training."""
