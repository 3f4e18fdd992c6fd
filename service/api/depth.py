"""How deep JSON nests, found out before it is parsed."""

import re

import numpy as np

from service.errors import BadInput

# A text that nothing ends goes to the end, so that one pass is enough whatever the body holds.
_TEXT = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_OPENS = 0b10  # the bit that [ and { have, and ] and } have not
_PIECE_BYTES = 1 << 20


def check_depth(text: bytes | bytearray, limit: int) -> None:
    """Refuse JSON whose lists and objects nest deeper than ``limit``.

    Raises:
        BadInput: they do.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return
    brackets = np.frombuffer(_TEXT.sub(b"", text).translate(None, _ALL_BUT_BRACKETS), np.uint8)
    depth = 0
    for start in range(0, len(brackets), _PIECE_BYTES):
        opens = brackets[start : start + _PIECE_BYTES] & _OPENS
        depths = depth + np.cumsum(opens.astype(np.int8) - 1, dtype=np.int64)
        if depths.max() > limit:
            raise BadInput(f"the JSON nests deeper than {limit} lists and objects (limits.max_json_depth)")
        depth = int(depths[-1])
