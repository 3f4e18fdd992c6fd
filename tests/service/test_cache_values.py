import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cache.values import HEAD_BYTES, seal, unseal


@given(st.binary(), st.binary(max_size=5000))
def test_what_was_sealed_comes_back(key, value):
    assert unseal(key, seal(key, value)) == value


@given(st.binary(), st.binary(), st.binary())
def test_a_value_under_another_key_is_refused(key, other, value):
    if key != other:
        assert unseal(other, seal(key, value)) is None


@given(st.binary(max_size=300), st.data())
def test_a_flipped_bit_is_found_wherever_it_is(value, data):
    sealed = bytearray(seal(b"key", value))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    assert unseal(b"key", bytes(sealed)) is None


@pytest.mark.parametrize("size", [0, 1, HEAD_BYTES - 1, HEAD_BYTES, HEAD_BYTES + 99])
def test_a_value_that_was_cut_or_never_sealed_is_refused(size):
    assert unseal(b"key", seal(b"key", bytes(100))[:size]) is None
    assert unseal(b"key", bytes(size)) is None


def test_the_format_does_not_drift():
    assert seal(b"key", b"value").hex() == "01b19fcf792e11118e76616c7565"
