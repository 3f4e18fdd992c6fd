"""The golden files: what the wire format is, byte for byte, and what each of them says.

They change only when the format does, which is on purpose. To write some anew, name them (`all` means all):

    PYTHONPATH=.:client python tests/support/golden_files.py reply-dense.arrows ...

Compressed files are read only: another version of a compressor may write other bytes that say the same.
"""

import io
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from blake3 import blake3

from service.api.replies import JsonWriter
from soft_targets import wire

FOLDER = Path(__file__).parent.parent / "golden"


class Golden(NamedTuple):
    """A golden file.

    Attributes:
        made: the bytes as they are written today.
        read: from bytes to what they say, in plain values.
        says: that, put down by hand.
        exact: whether they are written as ever; else they only say the same.
    """

    name: str
    made: Callable[[], bytes]
    read: Callable[[bytes], Any]
    says: Any
    exact: bool = True


# ------------------------------------------------------------------------------------------------- replies

METADATA = {
    "format": "1",
    "ensemble": "pets",
    "fingerprint": "ab" * 32,
    "temperature": "2.0",
    "violations": "",
}
ERROR = ("non_finite_input", "input 'x' holds NaN")
NO_QUORUM = ("quorum_lost", "1 of 3 teachers are left without 'größer', 'zwei', the quorum is 2")
COLUMNS = ("log_probs", "indices", "tail_log_mass", "entropy", "divergence")


class Row(NamedTuple):
    """A row of a reply."""

    row_id: int | str
    source: str
    log_probs: list[float] | None = None
    indices: list[int] | None = None
    tail_log_mass: float | None = None
    entropy: float | None = None
    divergence: float | None = None
    error: tuple[str, str] | None = None
    missing: tuple[str, ...] = ()


DENSE = [
    [Row("a", "hit", [-0.6931471824645996, -1.3862943649291992, -1.3862943649291992]),
     Row("é", "error", error=ERROR)],
    [Row("c", "coalesced", [-2.079441547393799, -2.079441547393799, -0.28768208622932434])],
]  # fmt: skip
SPARSE = [
    [Row(5, "miss", [-0.6931471824645996, -1.3862943649291992], [8, 0], -1.0),
     Row(2**64 - 1, "opinions", [-1.0986123085021973, -1.0986123085021973], [1, 2], -2.0)],
    [Row(0, "absent")],
]  # fmt: skip
HALVES = [
    [
        Row(1, "hit", [-1.0, -0.5, -87.3125, 0.0]),
        Row(2, "miss", [-float("inf"), 5.960464477539063e-08, -1, -2]),
    ],
    [Row(3, "error", error=ERROR)],
]
SPARSE_HALVES = [
    [Row("a", "hit", [-0.5, -1.5, -2.5], [7, 0, 3], -float("inf")), Row("b", "absent")],
    [Row("c", "coalesced", [-0.25, -4, -87.3125], [1, 2, 8], -1.25)],
]
DIAGNOSED = [
    [Row(1, "hit", [-0.5, -1.0], entropy=0.5, divergence=0.0), Row(2, "absent"),
     Row(3, "miss", [-2.0, -0.125], entropy=0.75, divergence=0.25), Row(4, "error", error=ERROR)],
]  # fmt: skip
ALL_AT_ONCE = [
    [Row(9, "hit", [-0.5], [1], -0.9375, 0.6875, 0.125), Row(8, "opinions", [-0.25], [0], -1.5, 0.5, 0.0625)],
    [Row(7, "error", error=NO_QUORUM)],
]
DEGRADED = [
    [Row(1, "miss", [-0.5, -1.0], missing=("größer", "zwei")), Row(2, "hit", [-1.0, -0.5]),
     Row(3, "error", error=NO_QUORUM), Row(4, "miss", [-0.75, -0.625], missing=("zwei",))],
]  # fmt: skip
REPETITIVE = [[Row(i, "hit", [-6.25] * 64) for i in range(40)] + [Row(40, "error", error=ERROR)]]


def written(groups, layout, *, codec=None):
    """The pieces of a reply."""
    first = groups[0][0].row_id
    kind = pa.string() if isinstance(first, str) else pa.uint64()
    writer = wire.ReplyWriter(layout, row_id_type=kind, metadata=METADATA, codec=codec)
    pieces = []
    for group in groups:
        values = [packed(layout, row) for row in group]
        pieces += writer.group(
            pa.array([row.row_id for row in group], kind),
            [row.source for row in group],
            values,
            [row.error for row in group],
            [row.missing for row in group],
        )
    return [*pieces, writer.close()]


def packed(layout, row):
    """A row's value, None where it has none."""
    if row.log_probs is None:
        return None
    log_probs, indices, tail, entropy, divergence = (
        None if getattr(row, name) is None else np.array([getattr(row, name)]) for name in COLUMNS
    )
    return layout.pack(log_probs, indices, tail, entropy=entropy, divergence=divergence)[0]


def said(body):
    """What a reply says, in plain values: its metadata, its rows, and what its end says."""
    metadata, batches = wire.read_reply(body)
    *groups, closing = batches
    return metadata, [rows_of(group) for group in groups], tuple(closing)


def rows_of(batch):
    """The rows of a batch that was read."""
    columns = {name: getattr(batch, name) for name in COLUMNS}
    rows = []
    for place, (row_id, source) in enumerate(zip(batch.row_ids.to_pylist(), batch.sources, strict=True)):
        values = {
            name: column[place].tolist()
            for name, column in columns.items()
            if column is not None and source not in ("error", "absent")
        }
        rows.append(
            Row(row_id, source, error=batch.errors[place], missing=batch.missing_teachers[place], **values)
        )
    return rows


def reply(name, groups, layout, *, codec=None):
    rows = [row for group in groups for row in group]
    return Golden(
        name,
        lambda: b"".join(written(groups, layout, codec=codec)),
        said,
        (METADATA, groups, (len(rows), sum(row.error is not None for row in rows))),
        exact=codec is None,
    )


REPLIES = [
    reply("reply-dense.arrows", DENSE, wire.Layout(3)),
    reply("reply-sparse.arrows", SPARSE, wire.Layout(9, 2)),
    reply("reply-float16.arrows", HALVES, wire.Layout(4, None, "float16")),
    reply("reply-sparse-float16.arrows", SPARSE_HALVES, wire.Layout(9, 3, "float16")),
    reply("reply-diagnostics.arrows", DIAGNOSED, wire.Layout(2, None, "float32", diagnostics=True)),
    reply("reply-all.arrows", ALL_AT_ONCE, wire.Layout(2, 1, "float16", diagnostics=True)),
    reply("reply-missing-teachers.arrows", DEGRADED, wire.Layout(2)),
    reply("reply-zstd.arrows", REPETITIVE, wire.Layout(64), codec="zstd"),
    reply("reply-lz4.arrows", REPETITIVE, wire.Layout(64), codec="lz4"),
]

# ------------------------------------------------------------------------------------------------- in text

CLASSES = ("cat", "dog", 'ow"l')


def text_of(*, lines):
    """A reply in text, of rows of every sort."""
    groups = [
        [Row(0, "hit", [-0.5, -1.5], [2, 0], -2.0, 0.75, 0.125), Row(1, "error", error=ERROR)],
        [
            Row(2**64 - 1, "miss", [0.0, -1.0], [1, 0], -float("inf"), 0.0, 0.0, missing=("größer",)),
            Row(7, "absent"),
        ],
    ]
    layout = wire.Layout(3, 2, "float32", diagnostics=True)
    ensemble = SimpleNamespace(name="pets", classes=CLASSES)
    recipe = SimpleNamespace(
        name="default",
        fingerprint="ab" * 32,
        layout=layout,
        recipe=SimpleNamespace(temperature=2.0),
        certificate=SimpleNamespace(id="cd" * 32, violations=["continuity"]),
    )
    writer = JsonWriter(ensemble, recipe, lines=lines)
    pieces = []
    for group in groups:
        pieces += writer.group(
            pa.array([row.row_id for row in group], pa.uint64()),
            [row.source for row in group],
            [packed(layout, row) for row in group],
            [row.error for row in group],
            [row.missing for row in group],
        )
    return b"".join([*pieces, writer.close()])


HEAD = {
    "ensemble": "pets",
    "recipe": "default",
    "fingerprint": "ab" * 32,
    "temperature": 2.0,
    "certificate": "cd" * 32,
    "violations": ["continuity"],
}
TARGETS = [
    {"row_id": 0, "source": "hit", "probabilities": {'ow"l': 0.6065306597126334, "cat": 0.22313016014842982},
     "tail": 0.1353352832366127, "entropy": 0.75, "divergence": 0.125},
    {"row_id": 1, "source": "error", "error_code": "non_finite_input", "error": "input 'x' holds NaN"},
    {"row_id": 18446744073709551615, "source": "miss",
     "probabilities": {"dog": 1.0, "cat": 0.36787944117144233}, "tail": 0.0,
     "entropy": 0.0, "divergence": 0.0, "missing_teachers": ["größer"]},
    {"row_id": 7, "source": "absent"},
]  # fmt: skip
TEXTS = [
    Golden("reply.json", lambda: text_of(lines=False), json.loads, HEAD | {"targets": TARGETS}),
    Golden(
        "reply.ndjson",
        lambda: text_of(lines=True),
        lambda body: [json.loads(line) for line in body.splitlines()],
        [{"format": "1"} | HEAD, *TARGETS, {"rows": 4, "failed": 1, "complete": True}],
    ),
]

# ------------------------------------------------------------------------------------------------ requests

SPECS = {
    "image": wire.TensorSpec("<f4", (2, 3)),
    "size": wire.TensorSpec("<i8", ()),
    "text": wire.TensorSpec("utf8", ()),
    "mask": wire.TensorSpec("|b1", (2,)),
}
INPUTS = {
    "image": [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]], [[-0.5, float("inf"), 1e-40], [0.25, 65504.0, -3.0]]],
    "size": [-(2**63), 2**53 + 1],
    "text": ["é\n", ""],
    "mask": [[True, False], [False, False]],
}
IMAGES = {"image": wire.TensorSpec("|u1", (64,))}


def arrays(inputs, specs):
    return {
        name: np.array(inputs[name], object if spec.dtype == "utf8" else spec.dtype)
        for name, spec in specs.items()
    }


def asked(specs):
    """From a request's bytes to what it asks for, in plain values."""

    def read(body):
        row_ids, inputs, digests = wire.decode_request(body, specs, max_rows=100)
        plain = inputs and {name: values.tolist() for name, values in inputs.items()}
        return row_ids.to_pylist(), plain, digests

    return read


def compressed(body, codec):
    """The same request with compressed buffers."""
    with pa.ipc.open_stream(body) as reader:
        sink, options = io.BytesIO(), pa.ipc.IpcWriteOptions(compression=codec)
        with pa.ipc.new_stream(sink, reader.schema, options=options) as writer:
            for batch in reader:
                writer.write_batch(batch)
    return sink.getvalue()


def images():
    """Rows that compress."""
    return wire.encode_request({"image": np.full((30, 64), 7, "|u1")}, wire.default_row_ids(30))


DIGESTS = [bytes([place]) * 32 for place in (1, 2, 255)]
REQUESTS = [
    Golden(
        "request-rows.arrows",
        lambda: wire.encode_request(arrays(INPUTS, SPECS), wire.row_id_array(["a", "é"])),
        asked(SPECS),
        (["a", "é"], {**INPUTS, "image": np.array(INPUTS["image"], "<f4").tolist()}, None),
    ),
    Golden(
        "request-digests.arrows",
        lambda: wire.encode_digests(DIGESTS, wire.row_id_array([7, 0, 2**64 - 1])),
        asked(SPECS),
        ([7, 0, 2**64 - 1], None, DIGESTS),
    ),
    *(
        Golden(
            f"request-{codec}.arrows",
            lambda codec=codec: compressed(images(), codec),
            asked(IMAGES),
            (list(range(30)), {"image": [[7] * 64] * 30}, None),
            exact=False,
        )
        for codec in wire.CODECS
    ),
]

# ------------------------------------------------------------------------------------- digests and layouts

FLAG, TEXT = wire.TensorSpec("|b1", ()), wire.TensorSpec("utf8", ())
ROWS = {
    "floats": ({"x": wire.TensorSpec("<f4", (2,))}, {"x": [[1.0, -2.0]]}),
    "integers": (
        {"größe": wire.TensorSpec("<i8", ()), "image": wire.TensorSpec("|u1", (2, 1))},
        {"größe": [258], "image": [[[7], [9]]]},
    ),
    "text": ({"text": TEXT}, {"text": ["né"]}),
    "text and a flag": ({"text": TEXT, "flag": FLAG}, {"text": [""], "flag": [True]}),
    "several": (SPECS, INPUTS),
    **{
        dtype: ({"x": wire.TensorSpec(dtype, ())}, {"x": ["1"] if dtype == "utf8" else [1]})
        for dtype in wire.DTYPES
    },
}


def by_the_book(specs, inputs):
    """A row's digest as docs/wire.md describes it."""
    said = b"st-row\x01"
    for name, spec in specs.items():
        value = inputs[name]
        data = value.encode() if spec.dtype == "utf8" else np.array(value, spec.dtype).tobytes()
        for text in (name, spec.dtype):
            said += struct.pack("<I", len(text.encode())) + text.encode()
        said += struct.pack("<B", len(spec.shape)) + b"".join(struct.pack("<Q", size) for size in spec.shape)
        said += struct.pack("<Q", len(data)) + data
    return blake3(said).hexdigest()


def digests():
    """The digests of rows of every sort."""
    found = {name: wire.row_digests(arrays(inputs, specs), specs) for name, (specs, inputs) in ROWS.items()}
    return shown({name: [digest.hex() for digest in rows] for name, rows in found.items()})


VALUE = Row(0, "hit", [-0.5, -1.5, -87.25], [2, 0, 1], -3.0, 0.75, 0.125)
LAYOUTS = [
    wire.Layout(3, top_k, dtype, diagnostics)
    for dtype in wire.PRECISIONS
    for diagnostics in (False, True)
    for top_k in (None, 3)
]


def layouts():
    """One value in every layout."""
    return shown({json.dumps(layout): packed(layout, VALUE).hex() for layout in LAYOUTS})


def unpacked(body):
    """Layouts and their values, in plain values."""
    found = {}
    for layout, value in json.loads(body).items():
        columns = wire.Layout(*json.loads(layout)).unpack(bytes.fromhex(value))
        found[layout] = {name: column[0].tolist() for name, column in columns.items()}
    return found


def shown(document):
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


OTHERS = [
    Golden(
        "digests.json",
        digests,
        json.loads,
        {
            name: [
                by_the_book(specs, {key: values[row] for key, values in inputs.items()})
                for row in range(len(next(iter(inputs.values()))))
            ]
            for name, (specs, inputs) in ROWS.items()
        },
    ),
    Golden(
        "layouts.json",
        layouts,
        unpacked,
        {
            json.dumps(layout): {
                name: getattr(VALUE, name)
                for name in COLUMNS
                if (layout.top_k or name not in ("indices", "tail_log_mass"))
                and (layout.diagnostics or name not in wire.DIAGNOSTICS)
            }
            for layout in LAYOUTS
        },
    ),
]

ALL = {golden.name: golden for golden in (*REPLIES, *TEXTS, *REQUESTS, *OTHERS)}


def main(names):
    for name in ALL if names == ["all"] else names:
        (FOLDER / name).write_bytes(ALL[name].made())
        print("wrote", FOLDER / name)  # noqa: T201 - a program


if __name__ == "__main__":
    main(sys.argv[1:])
