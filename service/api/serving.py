"""How uvicorn serves the application, in every process alike."""

import math

import uvicorn
from fastapi import FastAPI

from service.config import Settings


def config_of(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """The server's configuration.

    Args:
        app: what answers.
        settings: with its limits.
    """
    return uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here asks where a request comes from
        timeout_keep_alive=75,  # longer than clients and balancers keep an idle connection
        timeout_graceful_shutdown=math.ceil(settings.limits.drain_s),
    )
