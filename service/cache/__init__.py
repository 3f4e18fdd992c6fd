"""Where answers are kept, by content."""

from service.cache.inspecting import Inspected, inspect, kept_bytes
from service.cache.opening import open_store
from service.cache.store import Counters, Store

__all__ = ["Counters", "Inspected", "Store", "inspect", "kept_bytes", "open_store"]
