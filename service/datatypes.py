"""Datatypes of the Open Inference Protocol: what it calls them, and what they are here."""

from collections.abc import Mapping

BYTES, BFLOAT16 = "BYTES", "BF16"
# Those that an input or an output can have here, as it is declared.
DTYPE_OF: Mapping[str, str] = {
    "BOOL": "|b1",
    "UINT8": "|u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "INT8": "|i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    BYTES: "utf8",
}
# What a fixed number of bytes an element hold, as numpy spells it. BF16 numpy has not: it is read by hand.
FIXED: Mapping[str, str] = {
    **{datatype: dtype for datatype, dtype in DTYPE_OF.items() if datatype != BYTES},
    BFLOAT16: "<u2",
}
DATATYPES = (*FIXED, BYTES)
# JSON has no halves: the protocol keeps them out of it.
BINARY_ONLY = ("FP16", BFLOAT16)

_NAMES: Mapping[str, str] = {dtype: datatype for datatype, dtype in DTYPE_OF.items()}


def datatype_of(dtype: str) -> str:
    """What the protocol calls a dtype of an input or an output."""
    return _NAMES[dtype]
