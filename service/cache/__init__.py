"""Where answers are kept, by content."""

from service.cache.opening import open_store
from service.cache.store import Counters, Store

__all__ = ["Counters", "Store", "open_store"]
