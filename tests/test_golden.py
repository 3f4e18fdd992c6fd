"""The golden files still say what they said, and what is written today is what they are."""

import golden_files
import pytest
from golden_files import ALL, FOLDER


@pytest.mark.parametrize("name", ALL)
def test_a_golden_file_says_what_it_said(name):
    golden = ALL[name]
    assert golden.read((FOLDER / name).read_bytes()) == golden.says


@pytest.mark.parametrize("name", ALL)
def test_what_is_written_today_is_the_golden_file(name):
    golden, known = ALL[name], (FOLDER / name).read_bytes()
    made = golden.made()
    if golden.exact:
        assert made == known, f"the format changed; if it should: python tests/support/golden_files.py {name}"
    else:
        assert golden.read(made) == golden.says


def test_every_file_is_one_of_them():
    assert {path.name for path in FOLDER.iterdir()} == set(ALL)


def test_compressed_files_are_compressed():
    for name, golden in ALL.items():
        if not golden.exact:
            codec = name.partition("-")[2].partition(".")[0]
            mark = {"zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x04\x22\x4d\x18"}[codec]
            assert mark in (FOLDER / name).read_bytes()


def test_files_are_written_by_their_names_only(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(golden_files, "FOLDER", tmp_path)
    golden_files.main([])
    assert not list(tmp_path.iterdir())
    golden_files.main(["digests.json"])
    assert [path.name for path in tmp_path.iterdir()] == ["digests.json"]
    assert (tmp_path / "digests.json").read_bytes() == (FOLDER / "digests.json").read_bytes()
    golden_files.main(["all"])
    assert {path.name for path in tmp_path.iterdir()} == set(ALL)
    assert "wrote" in capsys.readouterr().out
    with pytest.raises(KeyError):
        golden_files.main(["reply-none.arrows"])
