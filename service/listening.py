"""Where a server listens, and with which certificate: found out before anything is loaded."""

import errno
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack

from service.auth import Access
from service.config import Settings
from service.errors import ConfigError, PortTaken

BACKLOG = 2048


def ports(settings: Settings) -> Iterator[tuple[str, int]]:
    """Every port that is configured, by its key; that of the API first."""
    yield "port", settings.server.port
    if settings.server.metrics_port is not None:
        yield "metrics_port", settings.server.metrics_port


def open_listeners(settings: Settings, access: Access) -> list[socket.socket]:
    """A socket for every port; all of them, or none.

    Raises:
        ConfigError: as ``listen``.
    """
    with ExitStack() as opened:
        listeners = [
            opened.enter_context(listen(settings.server.host, port, key=key, access=access))
            for key, port in ports(settings)
        ]
        opened.pop_all()
    return listeners


def listen(host: str, port: int, *, key: str, access: Access) -> socket.socket:
    """A socket that already queues connections, so that whoever reads the first line can connect.

    Args:
        host: a name or an address.
        port: 0 takes a free one.
        key: which names the port in the configuration.
        access: says whether the host may be reached from elsewhere.

    Raises:
        PortTaken: somebody listens there.
        ConfigError: the address is not this machine's, or not admitted.
    """
    where = f"cannot listen on {host} port {port}"
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        access.require_loopback(host, [str(address[0]) for *_, address in found])
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except (OSError, ValueError) as exc:  # a ValueError: what cannot be a host's name
        said = getattr(exc, "strerror", None) or exc
        if isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE:
            raise PortTaken(f"{where}: {said}; stop who listens there, or set server.{key}") from None
        if isinstance(exc, OSError) and exc.errno == errno.EACCES:
            raise ConfigError(f"{where}: {said}; set server.{key} to 1024 or above") from None
        raise ConfigError(f"{where}: {said}; set server.host to an address of this machine") from None
    return listener


def check_tls(settings: Settings) -> bool:
    """Whether connections are encrypted.

    Raises:
        ConfigError: the certificate or its key cannot be used.
    """
    certificate, key = settings.server.tls_certificate_file, settings.server.tls_key_file
    if certificate is None or key is None:
        return False
    for name, path in (("tls_certificate_file", certificate), ("tls_key_file", key)):
        try:
            path.read_bytes()
        except OSError as exc:
            raise ConfigError(f"server.{name}: {path} cannot be read: {exc.strerror}") from None
    try:
        # An empty password, lest somebody is asked for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as exc:
        raise ConfigError(
            f"server.tls_certificate_file {certificate} and server.tls_key_file {key} cannot be used: "
            f"{exc.reason or exc}; they are PEM, the certificate first of its chain, the key its own and "
            "without a password"
        ) from None
    return True
