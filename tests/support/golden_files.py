"""The golden files: what the wire format is, byte for byte, and what each of them says.

They change only when the format does, which is on purpose. To write some anew, name them (`all` means all):

    PYTHONPATH=.:client python tests/support/golden_files.py reply-dense.arrows ...

Compressed files are read only: another version of a compressor may write other bytes that say the same.
"""

import io
import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
from blake3 import blake3
from golden_replies import COLUMNS, ERROR, REPLIES, Golden, Row, packed

from service.api.replies import JsonWriter
from soft_targets import wire

FOLDER = Path(__file__).parent.parent / "golden"

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
