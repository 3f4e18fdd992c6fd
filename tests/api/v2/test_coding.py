"""Compression, both ways: what is inflated is bounded, and what is accepted is what the client asked for."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api.v2.coding import accepted, coding_of, deflate, inflate
from service.errors import BadInput, TooLarge

COMPRESS = {"gzip": gzip.compress, "deflate": zlib.compress}
MIB = 1 << 20


def inflated(body, coding, limit=64 * MIB):
    return b"".join(inflate(body, coding, limit=limit))


@pytest.mark.parametrize("coding", COMPRESS)
@given(body=st.binary(max_size=2000))
def test_what_was_compressed_comes_back(coding, body):
    assert inflated(COMPRESS[coding](body), coding) == body
    assert inflated(deflate(body, coding), coding) == body


@pytest.mark.parametrize("coding", COMPRESS)
@pytest.mark.parametrize("size", [4 * MIB, 4 * MIB + 1, 12 * MIB])
def test_large_bodies_come_in_pieces(coding, size):
    pieces = list(inflate(COMPRESS[coding](bytes(size)), coding, limit=size))
    assert max(map(len, pieces)) <= 4 * MIB
    assert b"".join(pieces) == bytes(size)


@pytest.mark.parametrize("coding", COMPRESS)
def test_what_inflates_to_too_much_is_given_up_at_once(coding):
    pieces, taken = inflate(COMPRESS[coding](bytes(64 * MIB)), coding, limit=10 * MIB), []
    with pytest.raises(TooLarge, match=r"more than 10485760 bytes \(limits.max_decompressed_bytes\)"):
        taken.extend(pieces)
    assert sum(map(len, taken)) <= 10 * MIB
    assert inflated(COMPRESS[coding](bytes(1000)), coding, limit=1000) == bytes(1000)
    with pytest.raises(TooLarge):
        inflated(COMPRESS[coding](bytes(1001)), coding, limit=1000)


@pytest.mark.parametrize("coding", COMPRESS)
@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda body: body[:-1], "ends before"),
        (lambda body: body[: len(body) // 2], "ends before"),
        (lambda _: b"", "ends before"),
        (lambda body: body + b"x", "goes on behind the end"),
        (lambda body: body + body, "goes on behind the end"),
        (lambda _: b'{"inputs": []}', "is no"),
        (lambda body: body[:-2] + bytes([body[-2] ^ 1]) + body[-1:], "is no"),
    ],
)
def test_what_is_no_compressed_body(coding, broken, said):
    body = COMPRESS[coding](bytes(range(256)) * 40)
    with pytest.raises(BadInput, match=said):
        inflated(broken(body), coding)


def test_one_coding_is_not_the_other():
    for coding, other in [("gzip", "deflate"), ("deflate", "gzip")]:
        with pytest.raises(BadInput, match=f"no {other}"):
            inflated(COMPRESS[coding](b"body"), other)


def test_which_codings_are_read():
    assert [coding_of(said) for said in ("", "identity", "gzip", " GZIP ", "deflate")] == [
        None, None, "gzip", "gzip", "deflate",
    ]  # fmt: skip
    for said in ("br", "zstd", "gzip, deflate", "x"):
        with pytest.raises(BadInput, match="send gzip or deflate"):
            coding_of(said)


@pytest.mark.parametrize(
    ("said", "chosen"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("GZip ; q=0.5", "gzip"),
        ("gzip, identity", "gzip"),
        ("gzip;q=0.5, identity;q=0.9", None),
        ("gzip;q=0.9, identity;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("gzip;q=x", None),
        ("identity", None),
        ("br", None),
        ("*", None),
        # What HTTP libraries send by themselves.
        ("gzip, deflate", None),
        ("gzip, deflate, br, zstd", None),
        # Unless nothing else is left.
        ("gzip, deflate;q=0.5, identity;q=0", "gzip"),
        ("gzip;q=0.1, deflate, br, identity;q=0", "deflate"),
        ("br, identity;q=0", None),
    ],
)
def test_which_coding_a_client_asks_for(said, chosen):
    assert accepted(said) == chosen
