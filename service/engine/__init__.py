"""The engine: ensembles loaded, requests answered, each row from the cache or from the teachers."""
