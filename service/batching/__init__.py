"""Load: what is taken in, and what is computed together."""
