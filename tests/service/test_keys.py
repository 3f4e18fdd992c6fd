import json

import pytest

from service import keys


def test_the_key_is_namespace_version_fingerprint_and_digest():
    key = keys.cache_key("ab" * 32, bytes(range(32)))
    assert key == b"soft-targets:1:" + b"\xab" * 32 + bytes(range(32))


def test_a_golden_fingerprint():
    question = {"b": [1, 2.5, None, True], "a": "ü", "c": {"y": 1e-6, "x": 4.0}}
    assert keys.canonical_json(question) == '{"a":"ü","b":[1,2.5,null,true],"c":{"x":4.0,"y":1e-06}}'.encode()
    assert keys.fingerprint(question) == "572f1bc2a1b696376ba19fe719affdc19f86ad348b7b95cceb184496a1c947a6"


def test_order_of_keys_does_not_matter_and_values_do():
    assert keys.fingerprint({"a": 1, "b": 2}) == keys.fingerprint({"b": 2, "a": 1})
    assert keys.fingerprint({"a": 1}) != keys.fingerprint({"a": 1.5})
    with pytest.raises(ValueError, match="not JSON compliant"):
        keys.canonical_json(float("nan"))


def test_files_are_hashed_by_name_size_and_bytes(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_bytes(b"ab")
    two.write_bytes(b"c")
    both = keys.files_digest([("", one), ("x", two)])
    assert both != keys.files_digest([("", one), ("y", two)])
    one.write_bytes(b"a")
    two.write_bytes(b"bc")
    assert both != keys.files_digest([("", one), ("x", two)])


def test_sources_are_hashed_by_content_only(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "notes.txt").write_text("1")
    first = keys.sources_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("2")
    assert keys.sources_digest(tmp_path) == first
    (tmp_path / "a.py").write_text("x = 2\n")
    assert keys.sources_digest(tmp_path) != first


def test_canonical_json_is_json():
    assert json.loads(keys.canonical_json({"a": [1.0, "b"]})) == {"a": [1.0, "b"]}
