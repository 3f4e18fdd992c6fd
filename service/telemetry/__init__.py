"""What the service tells of itself: its log, its metrics, and its spans."""

from service.telemetry.logs import configure, logger
from service.telemetry.metrics import Metrics
from service.telemetry.seldom import Seldom
from service.telemetry.spans import Spans, open_spans

__all__ = ["Metrics", "Seldom", "Spans", "configure", "logger", "open_spans"]
