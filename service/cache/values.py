"""What is kept outside this process: values that can tell whether they are whole, and under their own key.

A sealed value is a format byte, eight bytes of xxh3_64 over the value, and the value. The hash's seed is the
hash of the key, so a value under another key is refused like one with a flipped bit. It finds accidents, and
is no signature against whoever writes into the cache on purpose.
"""

from xxhash import xxh3_64_digest, xxh3_64_intdigest

FORMAT = b"\x01"
HEAD_BYTES = 9


def seal(key: bytes, value: bytes) -> bytes:
    """The value as it is kept under the key."""
    return FORMAT + xxh3_64_digest(value, xxh3_64_intdigest(key)) + value


def unseal(key: bytes, sealed: bytes) -> bytes | None:
    """The value that was sealed under the key; None if these are other bytes."""
    value = sealed[HEAD_BYTES:]
    if sealed[:HEAD_BYTES] != FORMAT + xxh3_64_digest(value, xxh3_64_intdigest(key)):
        return None
    return value
