#!/usr/bin/env python3
"""The yardstick of cuda_bench: the same steps of a model of Llama-3.1-8B's shape in plain PyTorch, random weights, bf16.
Decode (1k context, static keys and values, a CUDA graph) and prefill (one prompt, flash attention). Prints one line a step;
with a path as argument also writes JSON there. Exit code 77 without PyTorch or a device."""
import json
import sys

try:
    import torch
    import torch.nn.functional as f
except ImportError:
    print("no PyTorch", file=sys.stderr)
    sys.exit(77)
if not torch.cuda.is_available():
    print("no CUDA device", file=sys.stderr)
    sys.exit(77)

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, DIM, VOCAB, CONTEXT = 4096, 14336, 32, 32, 8, 128, 128256, 1024
RUNS = 9


def weight(rows, columns):
    return torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16) * 0.02


class Layer:
    def __init__(self):
        self.qkv = weight((HEADS + 2 * KV_HEADS) * DIM, HIDDEN)
        self.o = weight(HIDDEN, HEADS * DIM)
        self.gate_up = weight(2 * INTERMEDIATE, HIDDEN)
        self.down = weight(HIDDEN, INTERMEDIATE)


def rotate(x, cos, sin):
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def forward(layers, embedding, head, norm, tokens, position, cache):
    """tokens [batch][n]; cache: per layer keys and values [batch][KV_HEADS][context + n][DIM], or None for a prompt."""
    batch, n = tokens.shape
    frequency = 500000.0 ** (-torch.arange(0, DIM, 2, device="cuda", dtype=torch.float32) / DIM)
    angle = torch.arange(position, position + n, device="cuda", dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.cos().bfloat16(), angle.sin().bfloat16()
    x = embedding[tokens]
    for i, layer in enumerate(layers):
        qkv = f.linear(f.rms_norm(x, (HIDDEN,), norm), layer.qkv).view(batch, n, HEADS + 2 * KV_HEADS, DIM).transpose(1, 2)
        q, k, v = qkv.split((HEADS, KV_HEADS, KV_HEADS), dim=1)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if cache is not None:
            keys, values = cache[i]
            keys[:, :, position : position + n] = k
            values[:, :, position : position + n] = v
            k, v = keys, values
        a = f.scaled_dot_product_attention(q, k, v, is_causal=cache is None, enable_gqa=True)
        x = x + f.linear(a.transpose(1, 2).reshape(batch, n, HEADS * DIM), layer.o)
        gate, up = f.linear(f.rms_norm(x, (HIDDEN,), norm), layer.gate_up).chunk(2, dim=-1)
        x = x + f.linear(f.silu(gate) * up, layer.down)
    return f.linear(f.rms_norm(x[:, -1], (HIDDEN,), norm), head).argmax(dim=-1)


def median_ms(step):
    times = []
    for _ in range(RUNS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        step()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return sorted(times)[RUNS // 2]


def graphed(step):
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


@torch.inference_mode()
def main():
    layers = [Layer() for _ in range(LAYERS)]
    embedding, head = weight(VOCAB, HIDDEN), weight(VOCAB, HIDDEN)
    norm = torch.ones(HIDDEN, device="cuda", dtype=torch.bfloat16)
    out = {"torch": torch.__version__, "decode": [], "prefill": []}
    for batch in (1, 8, 64, 256):
        try:
            shape = (batch, KV_HEADS, CONTEXT + 1, DIM)
            cache = [[torch.zeros(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2)] for _ in layers]
            tokens = torch.arange(batch, device="cuda")[:, None]
            ms = median_ms(graphed(lambda: forward(layers, embedding, head, norm, tokens, CONTEXT, cache)))
        except torch.OutOfMemoryError:
            print(f"PyTorch decode, batch {batch}: does not fit")
            continue
        print(f"PyTorch decode, batch {batch}, 1k context: {ms:.3f} ms")
        out["decode"].append({"batch": batch, "device_ms": ms})
    cache = None
    for n in (512, 1024, 2048, 4096, 8192):
        tokens = torch.arange(n, device="cuda")[None]
        step = lambda: forward(layers, embedding, head, norm, tokens, 0, None)  # noqa: E731
        step()
        ms = median_ms(step)
        print(f"PyTorch prefill, {n} tokens: {ms:.2f} ms")
        out["prefill"].append({"tokens": n, "device_ms": ms})
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w", encoding="utf-8") as file:
            json.dump(out, file, indent=2)


main()
