"""Soft targets with nothing but Arrow and an HTTP library: what a client in any language does.

python examples/arrow_client.py http://127.0.0.1:8000/v1/ensembles/digits/soft-targets rows.npy pixels
"""

import sys

import httpx2
import numpy as np
import pyarrow as pa

url, rows, name = sys.argv[1], np.load(sys.argv[2]), sys.argv[3]
batch = pa.record_batch({name: pa.FixedShapeTensorArray.from_numpy_ndarray(rows)})
sink = pa.BufferOutputStream()
with pa.ipc.new_stream(sink, batch.schema) as writer:
    writer.write_batch(batch)
headers = {"Content-Type": "application/vnd.apache.arrow.stream"}
reply = httpx2.post(url, content=sink.getvalue().to_pybytes(), headers=headers)
if reply.is_error:
    sys.exit(reply.text)  # what was wrong, where, and what to do

reader, complete = pa.ipc.open_stream(reply.content), False
while not complete:  # a stream that ends before it says so was cut: this raises StopIteration
    targets, closing = reader.read_next_batch_with_custom_metadata()
    complete = closing is not None and closing[b"complete"] == b"true"
    for row in targets.to_pylist():
        print(row["row_id"], row["error"] or np.exp(row["log_probs"]).tolist())
