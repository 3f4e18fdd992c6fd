"""TLS by the server itself, with a certificate that openssl makes."""

import os
import ssl
import subprocess
import sys

import httpx2
import numpy as np
import pytest

from service.config import load
from service.errors import ConfigError
from service.listening import check_tls
from soft_targets import Client, ServerUnreachable

TOY = """\
server: {port: 0, SERVER}
ensembles:
  toy:
    classes: [ant, bee, cat, dog]
    teachers:
      - {name: one, model: "fake://?classes=4&features=6", output: {kind: logits}}
    recipes: {default: {operator: linear}}
"""
TLS = "tls_certificate_file: cert.pem, tls_key_file: key.pem"
ASK = """\
import os, numpy as np
from soft_targets import Client
with Client(os.environ["URL"], ensemble="toy", retry_s=0) as client:
    print(len(client.soft_targets({"x": np.zeros((3, 6), np.float32)})))
"""


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, timeout=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A certificate and its key, another key, and the same key under a password."""
    path = tmp_path_factory.mktemp("tls")
    curve = ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
    for name in ("key", "other"):
        openssl("genpkey", *curve, "-out", path / f"{name}.pem")
    openssl(
        *(
            "req",
            "-x509",
            "-key",
            path / "key.pem",
            "-out",
            path / "cert.pem",
            "-days",
            2,
            "-subj",
            "/CN=test",
        ),
        *(
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-addext",
            "keyUsage=critical,digitalSignature,keyCertSign",
        ),
    )
    openssl("pkey", "-in", path / "key.pem", "-aes256", "-passout", "pass:p", "-out", path / "locked.pem")
    (path / "no.pem").write_text("no PEM")
    return path


def configured(folder, server=TLS):
    path = folder / "toy.yaml"
    path.write_text(TOY.replace("SERVER", server))
    return path


@pytest.fixture(scope="module", params=[1, 2], ids=["alone", "workers"])
def server(request, folder, start):
    return start(configured(folder, f"{TLS}, workers: {request.param}"))


def trusting(folder):
    return httpx2.HTTPTransport(verify=ssl.create_default_context(cafile=folder / "cert.pem"))


def test_a_student_that_trusts_the_certificate_is_answered(server, folder):
    assert server.url.startswith("https://127.0.0.1:")
    with Client(server.url, ensemble="toy", transport=trusting(folder)) as client:
        targets = client.soft_targets({"x": np.zeros((300, 6), np.float32)})
    assert len(targets) == 300


@pytest.mark.parametrize(("trusted", "code"), [(True, 0), (False, 1)])
def test_a_private_authority_is_trusted_by_the_environment(server, folder, trusted, code):
    environment = {**os.environ, "URL": server.url}
    if trusted:
        environment["SSL_CERT_FILE"] = str(folder / "cert.pem")
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stderr
    assert ("3" in done.stdout) == trusted
    assert ("CERTIFICATE_VERIFY_FAILED" in done.stderr) != trusted


def test_nobody_is_answered_in_the_clear(server):
    url = server.url.replace("https", "http")
    with Client(url, ensemble="toy", retry_s=0) as client, pytest.raises(ServerUnreachable):
        client.soft_targets({"x": np.zeros((1, 6), np.float32)})


def test_old_versions_of_the_protocol_are_not_spoken(server, folder):
    context = ssl.create_default_context(cafile=folder / "cert.pem")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3
    with httpx2.Client(verify=context) as client:
        assert client.get(f"{server.url}/livez").status_code == 200
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with httpx2.Client(verify=context) as client, pytest.raises(httpx2.ConnectError):
        client.get(f"{server.url}/livez")


@pytest.mark.parametrize(
    ("server", "said"),
    [
        ("tls_certificate_file: cert.pem", "go together; name both, or neither"),
        ("tls_key_file: key.pem", "go together; name both, or neither"),
        (
            "tls_certificate_file: gone.pem, tls_key_file: key.pem",
            "tls_certificate_file: .*gone.pem",
        ),
        (
            "tls_certificate_file: cert.pem, tls_key_file: gone.pem",
            "tls_key_file: .*gone.pem cannot be",
        ),
        ("tls_certificate_file: cert.pem, tls_key_file: other.pem", "cannot be used: KEY_VALUES_MISMATCH"),
        ("tls_certificate_file: cert.pem, tls_key_file: locked.pem", "and without a password"),
        ("tls_certificate_file: no.pem, tls_key_file: key.pem", "they are PEM"),
    ],
)
def test_what_cannot_be_used_stops_the_start(folder, server, said):
    with pytest.raises(ConfigError, match=said):
        check_tls(load(configured(folder, server)))


def test_without_a_certificate_connections_are_in_the_clear(folder):
    assert check_tls(load(configured(folder, "workers: 1"))) is False
