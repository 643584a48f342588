r"""Metrics as `evaluate.Metric` modules: `evaluate.load("training/metrics/exact_match.py")` needs no network."""
