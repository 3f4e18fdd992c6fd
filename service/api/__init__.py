"""The HTTP edge: the only part that knows of requests, statuses and media types."""
