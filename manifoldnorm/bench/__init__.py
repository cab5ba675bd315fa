"""Benchmarks: our kernels and norms beside those of others, in one run. ``python -m manifoldnorm bench --help``."""
