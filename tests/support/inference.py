"""Requests of the Open Inference Protocol v2 as its specification has them, written by hand."""

import json
import struct

import numpy as np

HEADER = "Inference-Header-Content-Length"
DATATYPES = {
    "|b1": "BOOL", "|u1": "UINT8", "<u2": "UINT16", "<u4": "UINT32", "<u8": "UINT64", "|i1": "INT8",
    "<i2": "INT16", "<i4": "INT32", "<i8": "INT64", "<f2": "FP16", "<f4": "FP32", "<f8": "FP64",
    "|O": "BYTES",
}  # fmt: skip


def texts(values):
    """Elements of BYTES: each with its length before it."""
    encoded = [value if isinstance(value, bytes) else value.encode() for value in values]
    return b"".join(struct.pack("<I", len(one)) + one for one in encoded)


def described(name, values, **more):
    """What stands in the JSON of a tensor, without its values."""
    datatype = DATATYPES[values.dtype.str]
    return {"name": name, "datatype": datatype, "shape": list(values.shape), **more}


def as_json(name, values):
    """A tensor whose values stand in the JSON, in one list."""
    return described(name, values, data=values.ravel().tolist())


def as_bytes(name, values):
    """A tensor whose values stand behind the JSON, and they."""
    content = texts(values.ravel()) if values.dtype == object else values.tobytes()
    return described(name, values, parameters={"binary_data_size": len(content)}), content


def request_of(inputs, binary=(), **more):
    """A body and its headers.

    Args:
        inputs: name to array.
        binary: the names of those that are sent as bytes.
        more: keys of the JSON besides.
    """
    tensors, contents = [], []
    for name, values in inputs.items():
        if name in binary:
            tensor, content = as_bytes(name, values)
            contents.append(content)
        else:
            tensor = as_json(name, values)
        tensors.append(tensor)
    return body_of({"inputs": tensors, **more}, contents)


def body_of(document, contents=()):
    """A body of JSON and what stands behind it, and its headers."""
    text = json.dumps(document).encode()
    return text + b"".join(contents), {HEADER: str(len(text))} if contents else {}


def outputs_of(reply):
    """The outputs of a reply by name, as arrays; BYTES as lists of bytes."""
    body = reply.content
    size = int(reply.headers.get(HEADER, len(body)))
    document, rest, found = json.loads(body[:size]), body[size:], {}
    for output in document["outputs"]:
        taken = output.get("parameters", {}).get("binary_data_size")
        dtype = {datatype: dtype for dtype, datatype in DATATYPES.items()}[output["datatype"]]
        if taken is None:
            assert "data" in output
            values = np.array(
                [one.encode() if isinstance(one, str) else one for one in output["data"]], dtype
            )
        else:
            assert "data" not in output
            content, rest = rest[:taken], rest[taken:]
            assert len(content) == taken
            values = np.array(_read(content), object) if dtype == "|O" else np.frombuffer(content, dtype)
        found[output["name"]] = values.reshape(output["shape"])
    assert not rest
    return found


def _read(content):
    found = []
    while content:
        (size,) = struct.unpack_from("<I", content)
        found.append(content[4 : 4 + size])
        content = content[4 + size :]
    return found
