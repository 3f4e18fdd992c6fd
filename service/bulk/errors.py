"""What stops a bulk command; each says what, where and what to do.

ServiceError
├── DataError       the data cannot be read, or does not fit the ensemble
├── ExportRefused   an export is not of this recipe or these data, or is not whole
└── CacheLost       the cache does not keep what it is given
"""

from service.errors import ServiceError


class DataError(ServiceError):
    """Raised when data cannot be read, or do not fit the ensemble; names the file, the column and the row."""


class ExportRefused(ServiceError):
    """Raised when an export is of another recipe or of other data, or is not whole."""


class CacheLost(ServiceError):
    """Raised when the cache does not keep what it is given, for longer than an outage may take."""
