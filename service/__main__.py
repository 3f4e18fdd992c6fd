"""``python -m service``, the same as ``soft-targets``."""

from service.cli import main

main()
