"""Pooling operators: pure functions over log-probabilities, written once for every array library."""
