import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.api import depth
from service.api.depth import check_depth
from service.errors import BadInput

TEXTS = st.text('"\\[]{} a', max_size=4)
VALUES = st.recursive(
    st.none() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


def depth_of(value):
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(VALUES)
def test_the_depth_of_a_document_is_what_its_values_nest(value):
    text, found = json.dumps(value).encode(), depth_of(value)
    check_depth(text, max(found, 1))
    if found > 1:
        with pytest.raises(BadInput, match=f"deeper than {found - 1} "):
            check_depth(text, found - 1)


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 1000])
def test_depth_is_counted_over_pieces(monkeypatch, piece_bytes):
    monkeypatch.setattr(depth, "_PIECE_BYTES", piece_bytes)
    check_depth(b"[[],[[]],[]]" * 2, 3)
    with pytest.raises(BadInput, match="deeper than 2"):
        check_depth(b"[[],[[]],[]]", 2)


def test_brackets_in_texts_do_not_count():
    check_depth(rb'["[[[[[[[[", "\"[[[[[[[", "\\", "]]]]"]', 1)
    with pytest.raises(BadInput):
        check_depth(rb'["\\", [[]]]', 2)


def test_what_is_no_json_is_left_to_the_parser():
    check_depth(b'["unended [[[[[[[[', 1)
    check_depth(rb'["unended \"[[[[[[[[\\' + b"\\", 1)
    check_depth(b"]]]]]]]]][[", 1)
    check_depth(b"", 1)


def test_a_body_of_escaped_quotes_is_read_once():
    # Were every quote the beginning of a text that does not end, this would take hours.
    check_depth(b'[[["' + rb"\"" * 5_000_000, 3)


def test_every_json_body_is_bounded(client):
    deep = "[" * 101 + "]" * 101
    for method, path in [
        ("POST", "/v1/ensembles/toy/soft-targets"),
        ("POST", "/v1/ensembles/toy/opinions"),
        ("POST", "/v1/ensembles/toy/guarantees"),
        ("POST", "/v2/models/toy/infer"),
        ("POST", "/v2/repository/index"),
    ]:
        reply = client.request(method, path, content=deep, headers={"Content-Type": "application/json"})
        assert (reply.status_code, reply.json()["code"]) == (400, "bad_input")
        assert "nests deeper than 100" in reply.json()["error"]
