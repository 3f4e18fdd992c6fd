"""Several processes behind one port: a parent that only looks after them, and workers that answer."""
