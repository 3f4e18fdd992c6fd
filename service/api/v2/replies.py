"""Replies: JSON, and behind it the outputs that are sent as bytes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import to_json

from service.api.media import JSON
from service.api.v2 import coding
from service.api.v2.outputs import Written

BINARY = "application/octet-stream"
HEADER_LENGTH = "inference-header-content-length"


class Reply(NamedTuple):
    """What is sent.

    Attributes:
        body: compressed where the client asked for it.
        headers: besides its length.
    """

    body: bytes
    headers: dict[str, str]


def encode(head: Mapping[str, Any], outputs: Sequence[Written], compression: str | None) -> Reply:
    """A reply to an inference request.

    Args:
        head: what stands before its outputs.
        outputs: in their order.
        compression: gzip, deflate, or None.
    """
    described, contents = list[bytes](), list[bytes]()
    for output in outputs:
        said: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": list(output.shape),
        }
        if output.binary:
            contents.append(output.content())
            said["parameters"] = {"binary_data_size": len(contents[-1])}
        data = b"" if output.binary else b',"data":' + output.data()
        described.append(to_json(said)[:-1] + data + b"}")
    document = to_json(head)[:-1] + b',"outputs":[' + b",".join(described) + b"]}"
    headers = {"content-type": JSON}
    if contents:
        # Of the JSON as it is before the body is compressed.
        headers = {"content-type": BINARY, HEADER_LENGTH: str(len(document))}
    body = b"".join((document, *contents))
    if compression is not None:
        headers["content-encoding"] = compression
        body = coding.deflate(body, compression)
    return Reply(body, headers)
