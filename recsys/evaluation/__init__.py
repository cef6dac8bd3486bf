"""Splits, metrics, baselines and the gate. No torch."""
