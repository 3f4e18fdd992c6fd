"""tritonclient, sync and asyncio, against a running server: ``tests/conformance/check_triton.py``."""

import conformance


def test_the_real_client_passes_every_check(toy, start, tmp_path):
    told = conformance.servers_of(toy, start, tmp_path)
    said = conformance.check("triton", told)
    assert " passed" in said
