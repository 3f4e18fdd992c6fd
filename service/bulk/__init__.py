"""Whole data sets: labelled into the cache or into Parquet, brought from there into a cache, verified."""
