"""What a reply, or a request, may claim: nothing is allocated, read or believed beyond the limit."""

import io
import struct

import numpy as np
import pyarrow as pa
import pytest

from soft_targets import wire
from soft_targets.wire import Closing, IncompleteStream, InputError, WireError, decode_request, read_reply
from soft_targets.wire.stream import MAX_HEADER_BYTES

ROWS = 64
LAYOUT = wire.Layout(500)
WORDS = pa.array(wire.SOURCES)


def reply(codec=None, *, groups=1):
    """A reply whose log-probabilities take 128,000 bytes a group, and much less where compressed."""
    writer = wire.ReplyWriter(LAYOUT, row_id_type=pa.uint64(), metadata={"format": "1"}, codec=codec)
    values = LAYOUT.pack(np.full((ROWS, 500), -6.25, "<f4"))
    pieces = []
    for start in range(0, groups * ROWS, ROWS):
        ids = pa.array(range(start, start + ROWS), pa.uint64())
        pieces += writer.group(ids, ["hit"] * ROWS, values, [None] * ROWS)
    return b"".join([*pieces, writer.close()])


def read(source, **options):
    metadata, batches = read_reply(source, **options)
    return metadata, list(batches)


def declare(body, size, to):
    """Let the last compressed buffer, which inflates to ``size`` bytes, claim another size."""
    place = body.rindex(struct.pack("<q", size))
    return body[:place] + struct.pack("<q", to) + body[place + 8 :]


@pytest.mark.parametrize("codec", [None, *wire.CODECS])
def test_what_a_reply_holds_is_bounded_decompressed_and_all_together(codec):
    body = reply(codec, groups=4)
    assert codec is None or len(body) < 40_000
    held = 4 * ROWS * (4 * 500 + 8 + 1)
    assert len(read(body, max_bytes=held + 20_000)[1]) == 5
    with pytest.raises(WireError, match=f"says that it holds more than {held} bytes"):
        read(body, max_bytes=held)
    metadata, batches = read_reply(body, max_bytes=held - 1000)
    assert metadata == {"format": "1"}
    assert [len(next(batches).sources) for _ in range(3)] == [ROWS] * 3  # what is within it was right


@pytest.mark.parametrize("codec", wire.CODECS)
@pytest.mark.parametrize("claimed", [2**30, 2**40, 2**62])
def test_a_claimed_size_is_refused_before_it_is_allocated(codec, claimed):
    body = declare(reply(codec), 4 * 500 * ROWS, claimed)
    before = pa.default_memory_pool().max_memory()
    with pytest.raises(WireError, match=f"more than {2**30} bytes"):
        read(body)
    assert pa.default_memory_pool().max_memory() <= max(before, 2**26)


@pytest.mark.parametrize("codec", wire.CODECS)
@pytest.mark.parametrize("claimed", [0, 1, 127_999, 128_001, -2, -(2**63)])
def test_a_claimed_size_that_is_not_the_real_one_is_refused(codec, claimed):
    with pytest.raises(WireError):
        read(declare(reply(codec), 4 * 500 * ROWS, claimed))


def group_of():
    """The opening of a reply, and one group."""
    messages = [one.serialize().to_pybytes() for one in pa.ipc.MessageReader.open_stream(reply())]
    return b"".join(messages[:2]), messages[2]


class Forever:
    """A file that sends the same group again and again, and never ends."""

    def __init__(self):
        self.rest, self.again = group_of()
        self.total = 0

    def read(self, size):
        while len(self.rest) < size:
            self.rest += self.again
        piece, self.rest = self.rest[:size], self.rest[size:]
        self.total += size
        return piece


def test_a_reply_without_an_end_is_read_to_the_limit_only():
    source = Forever()
    with pytest.raises(WireError, match="more than 1000000 bytes"):
        read(source, max_bytes=1_000_000)
    assert source.total < 1_000_100


class Lying:
    """A file that asks to be read in one piece far larger than it is; how much was asked for is noted."""

    def __init__(self, body):
        self.body = io.BytesIO(body)
        self.asked = 0

    def read(self, size):
        self.asked = max(self.asked, size)
        return self.body.read(size)


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 8, 2**31 - 8, -1, -(2**31)])
def test_a_header_beyond_the_limit_is_not_read(length):
    opening, _ = group_of()
    for place in (0, len(opening)):
        body = bytearray(reply())
        body[place + 4 : place + 8] = struct.pack("<i", length)
        source = Lying(bytes(body))
        with pytest.raises(WireError, match="has a header of"):
            read(source)
        assert source.asked < 1 << 21


def test_a_file_is_asked_for_no_more_than_a_megabyte_at_a_time():
    layout = wire.Layout(wire.MAX_BATCH_BYTES // 4)
    writer = wire.ReplyWriter(layout, row_id_type=pa.uint64(), metadata={"format": "1"})
    pieces = writer.group(wire.default_row_ids(1), ["hit"], [bytes(layout.row_bytes)], [None])
    source = Lying(b"".join([*pieces, writer.close()]))
    assert read(source)[1][-1] == Closing(1, 0)
    assert source.asked == 1 << 20


class Short:
    """A file that gives a few bytes at a time, like a socket."""

    def __init__(self, body):
        self.body = io.BytesIO(body)

    def read(self, size):
        return self.body.read(min(size, 7))


def test_a_file_may_give_less_than_it_is_asked_for():
    assert read(Short(reply()))[1][-1] == Closing(ROWS, 0)
    with pytest.raises(IncompleteStream):
        read(Short(reply()[:-300]))


def test_a_file_that_breaks_off_is_an_incomplete_answer():
    class Broken(Short):
        def read(self, size):
            if self.body.tell() > 5000:
                raise ConnectionResetError("gone")
            return super().read(size)

    _, batches = read_reply(Broken(reply()))
    with pytest.raises(IncompleteStream, match="gone"):
        next(batches)


def columns(rows=2, **changed):
    """A reply's columns, and what a test makes of them."""
    base = {
        "row_id": pa.array(range(rows), pa.uint64()),
        "source": pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int8()), WORDS),
        "error_code": pa.array([None] * rows, pa.string()),
        "error": pa.array([None] * rows, pa.string()),
        "log_probs": pa.array([[-1.0, -1.0]] * rows, pa.list_(pa.float32(), 2)),
    }
    return pa.record_batch(base | changed).replace_schema_metadata({"soft_targets.format": "1"})


def stream(*batches, said=None, **options):
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, batches[0].schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        for batch in batches:
            writer.write_batch(batch, said)
    return sink.getvalue()


def refused(body, message):
    with pytest.raises(WireError, match=message):
        read(body)


@pytest.mark.parametrize(
    "words", [["hit"], ["miss", "hit", *wire.SOURCES[2:]], [*wire.SOURCES, "more"], ["x" * 100_000] * 6]
)
def test_other_words_for_the_sources_are_refused(words):
    source = pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int8()), pa.array(words))
    refused(stream(columns(source=source)), "sources are not hit, opinions, miss")


def test_a_dictionary_that_grows_or_changes_is_refused():
    grown = [
        pa.DictionaryArray.from_arrays(pa.array([0, 0], pa.int8()), pa.array(words))
        for words in (wire.SOURCES, [*wire.SOURCES, "more"])
    ]
    batches = [columns(source=one) for one in grown]
    refused(stream(*batches, emit_dictionary_deltas=True), "adds to a dictionary")
    refused(stream(*batches), "comes behind its rows")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"row_id": pa.array([1, None], pa.uint64())}, "has no id"),
        ({"row_id": pa.array(["a", None])}, "has no id"),
        ({"source": pa.DictionaryArray.from_arrays(pa.array([0, None], pa.int8()), WORDS)}, "has no source"),
        ({"log_probs": pa.array([[], []], pa.list_(pa.float32(), 0))}, "columns are not those of a reply"),
        (
            {
                "indices": pa.array([[0], [1]], pa.list_(pa.int32(), 1)),
                "tail_log_mass": pa.array([0.0, 0.0], pa.float32()),
            },
            "columns are not those of a reply",
        ),
        ({"tail_log_mass": pa.array([0.0, 0.0], pa.float32())}, "columns are not those of a reply"),
    ],
)
def test_rows_that_do_not_say_what_a_row_says_are_refused(changed, message):
    refused(stream(columns(**changed)), message)


def test_rows_in_the_closing_batch_are_refused_not_lost():
    said = {"rows": "2", "failed": "0", "complete": "true"}
    refused(stream(columns(), said=said), "the closing batch of the answer holds rows")


def test_a_column_that_nobody_asked_for_is_not_even_decompressed():
    # It claims what could not be allocated, within the limit that this reader sets.
    much = columns(more=pa.array(["x" * 100_000] * 2))
    body = declare(stream(much, compression="zstd"), 200_000, 2**44)
    before = pa.default_memory_pool().max_memory()
    first = next(read_reply(body, max_bytes=2**45)[1])
    assert first.sources == ["hit", "hit"]
    assert pa.default_memory_pool().max_memory() <= max(before, 2**26)


HIDDEN = {"ARROW:experimental_compression": "zstd"}


def test_compression_that_a_header_s_reader_would_not_see_is_refused():
    # Arrow 0.17 kept the codec in a message's metadata, and readers still look for it there.
    body = stream(columns(), said=HIDDEN, metadata_version=pa.ipc.MetadataVersion.V4)
    refused(body, "an experiment of Arrow 0.17")
    given = pa.record_batch({"x": pa.array([1.0, 2.0], pa.float32())})
    body = stream(given, said=HIDDEN, metadata_version=pa.ipc.MetadataVersion.V4)
    with pytest.raises(InputError, match=r"an experiment of Arrow 0\.17"):
        decode_request(body, {"x": wire.TensorSpec("<f4", ())}, max_rows=2)


def test_more_rows_than_bytes_are_refused():
    body = bytearray(reply())
    opening, _ = group_of()
    place = body.index(struct.pack("<q", ROWS), len(opening))
    body[place : place + 8] = struct.pack("<q", 2**40)
    refused(bytes(body), f"counts {2**40} rows in")


def big_endian(body):
    """The same stream, whose schema says that its numbers are big-endian: pyarrow leaves that field out."""
    (length,) = struct.unpack("<i", body[4:8])
    header = bytearray(body[8 : 8 + length])
    (root,) = struct.unpack_from("<I", header)
    table = root - struct.unpack_from("<i", header, root)[0]
    place = root + struct.unpack_from("<H", header, table + 4 + 2 * 2)[0]
    schema = place + struct.unpack_from("<I", header, place)[0]
    fields = schema - struct.unpack_from("<i", header, schema)[0]
    # The second byte of the offset to the vector of fields is 0: there the endianness may be read from.
    vector = struct.unpack_from("<H", header, fields + 4 + 2 * 1)[0]
    assert struct.unpack_from("<I", header, schema + vector)[0] > 0
    struct.pack_into("<H", header, fields + 4, vector)
    return body[:8] + bytes(header) + body[8 + length :]


def test_big_endian_numbers_are_refused():
    refused(big_endian(reply()), "big-endian")
    given = pa.record_batch({"x": pa.array([1.0, 2.0], pa.float32())})
    with pytest.raises(InputError, match="big-endian"):
        decode_request(big_endian(stream(given)), {"x": wire.TensorSpec("<f4", ())}, max_rows=2)
