"""The real server in a thread of this process, on a configuration of one fake teacher."""

import socket
import threading

import uvicorn

from service.api.app import create_app
from service.api.serving import config_of
from service.auth import open_access
from service.config import load
from service.engine.changes import Alone
from service.engine.engine import Engine

CONFIG = """\
AUTHserver: {port: 0}
limits: {LIMITS}
ensembles:
  toy:
    classes: [ant, bee, cat, dog]
    teachers:
      - {name: one, model: "fake://?classes=4&features=6", output: {kind: logits}}
    recipes: {default: {operator: linear}}
"""


def configuration(limits, *, auth=""):
    """One fake teacher, six numbers in, four classes out."""
    return CONFIG.replace("LIMITS", limits).replace("AUTH", auth)


class Served:
    def __init__(self, path):
        self.settings = load(path)
        self.engine = Engine.open(self.settings)
        access = open_access(self.settings.auth)
        app = create_app(self.engine, self.settings, access, Alone(self.engine, lambda: load(path)))
        self.server = uvicorn.Server(config_of(app, self.settings))
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = self.socket.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]})
        self.thread.start()

    def stop(self):
        self.server.should_exit = True
        self.thread.join(60)
        assert not self.thread.is_alive()
