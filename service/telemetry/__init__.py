"""What the service tells of itself: its log, its metrics."""

from service.telemetry.logs import configure, logger
from service.telemetry.metrics import Metrics

__all__ = ["Metrics", "configure", "logger"]
