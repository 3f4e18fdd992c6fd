"""The client against the real server: the forms of an answer, and digests before rows."""

import numpy as np
import pytest

from soft_targets import Client


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("compression", [None, "zstd", "lz4"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_every_form_says_the_same(server, toy, dtype, compression, top_k):
    rows = toy.rows(40, seed=90)
    with Client(server.url, ensemble="toy", recipe="linear", top_k=top_k) as plain:
        expected = plain.soft_targets({"pixels": rows})
    with Client(
        server.url, ensemble="toy", recipe="linear", top_k=top_k, dtype=dtype, compression=compression
    ) as client:
        targets = client.soft_targets({"pixels": rows})
    assert targets.log_probs.dtype == np.dtype(dtype)
    assert (targets.fingerprint == expected.fingerprint) == (dtype == "float32")
    np.testing.assert_array_equal(targets.log_probs, expected.log_probs.astype(dtype))
    if top_k is not None:
        np.testing.assert_array_equal(targets.indices, expected.indices)
        assert targets.tail_log_mass.dtype == np.float32


@pytest.mark.parametrize("digest_first", ["always", "never"])
def test_digests_first_and_rows_whole_give_the_same(server, toy, digest_first):
    rows = toy.rows(64, seed=91)
    with Client(server.url, ensemble="toy") as plain:
        expected = plain.soft_targets({"pixels": rows[:32]})
    with Client(server.url, ensemble="toy", digest_first=digest_first) as client:
        targets = client.soft_targets({"pixels": rows})
        np.testing.assert_array_equal(targets.log_probs[:32], expected.log_probs)
        assert targets.source[:32] == ["hit"] * 32
        assert client.stats.requests == (2 if digest_first == "always" else 1)
        assert client.soft_targets({"pixels": rows}).source == ["hit"] * 64
