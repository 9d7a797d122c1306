#!/usr/bin/env python3
"""Writes gguf_blocks.json: what ggml's own Python package (`gguf`) reads out of random blocks of each quantised type.

Run from the repository root with `gguf` and `numpy` installed.
"""
import json

import gguf
import numpy

OUT = "tests/golden/gguf_blocks.json"
# Where the f16 scales of a block lie: random bits there would often be infinite.
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q4_K": [0, 2], "Q5_K": [0, 2],
          "Q6_K": [208]}

random = numpy.random.default_rng(7)
golden = {}
for name, scales in SCALES.items():
    kind = getattr(gguf.GGMLQuantizationType, name)
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = random.integers(0, 256, (64 // elements + 1, size), dtype=numpy.uint8)
    for at in scales:
        values = random.uniform(-0.1, 0.1, blocks.shape[0]).astype(numpy.float16)
        blocks[:, at:at + 2] = values.view(numpy.uint8).reshape(-1, 2)
    values = gguf.quants.dequantize(blocks, kind).astype(numpy.float32).reshape(-1)
    golden[name] = {"bytes": blocks.tobytes().hex(), "values": [float(v) for v in values]}
with open(OUT, "w") as file:
    json.dump(golden, file)
    file.write("\n")
