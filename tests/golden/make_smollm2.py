#!/usr/bin/env python3
"""Writes smollm2.json: what other programs make of the GGUF file that `tools/get-model smollm2` brings.

Run from the repository root with `gguf`, `numpy` and `tokenizers` installed and the GGUF file as argument. Token ids come
from Hugging Face's `tokenizers`, set up as SmolLM2's tokenizer.json is; continuations from the forward pass below, in f32
on the weights that `gguf` decodes.
"""
import json
import sys

import gguf
import numpy
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

OUT = "tests/golden/smollm2.json"
PROSE = [
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of a wife.",
    "The quick brown fox doesn't jump over 13 lazy dogs; it's 2024-05-17, 10:42:07.\n\n\tTabs\tand   spaces   ",
    "na\u00efve caf\u00e9 \u4f60\u597d \u041f\u0440\u0438\u0432\u0435\u0442 \U0001f642\u200d\u2642\ufe0f \u0661\u0662\u0663 \u00bd",
    "def add(a: int, b: int) -> int:\n    return a + b  # sums\r\n",
    "\x04 of the bytes without a token: th\x04e !\x04!? " + "(\x06)" * 20,
]
PROMPTS = ["<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n", "Once upon a time, there was a little girl who",
           "<|im_start|>user\nWhat do plants need to grow?<|im_end|>\n<|im_start|>assistant\n"]
LENGTH = 24

reader = gguf.GGUFReader(sys.argv[1])
fields = {name: field.contents() for name, field in reader.fields.items()}
tensors = {t.name: t for t in reader.tensors}


def weight(name):
    return gguf.quants.dequantize(tensors[name].data, tensors[name].tensor_type).astype(numpy.float32)


def make_tokenizer():
    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"]]
    out = tokenizers.Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    out.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    out.decoder = decoders.ByteLevel()
    out.add_special_tokens([t for t, kind in zip(tokens, fields["tokenizer.ggml.token_type"]) if kind == 3])
    return out


class Llama:
    """The plainest forward pass of a Llama model: all positions anew for each token. Rotary embedding pairs neighbours
    (2j, 2j + 1), which is how the file keeps queries and keys."""

    def __init__(self):
        self.layers = fields["llama.block_count"]
        self.heads = fields["llama.attention.head_count"]
        self.kv_heads = fields["llama.attention.head_count_kv"]
        self.eps = fields["llama.attention.layer_norm_rms_epsilon"]
        self.theta = fields["llama.rope.freq_base"]
        self.weights = {name: weight(name) for name in tensors}

    def norm(self, x, name):
        return x / numpy.sqrt((x * x).mean(-1, keepdims=True) + self.eps) * self.weights[name]

    def rotate(self, x):
        half = x.shape[-1] // 2
        angle = numpy.arange(len(x))[:, None] * self.theta ** (-numpy.arange(half) / half)
        cos, sin = numpy.cos(angle)[:, None, :], numpy.sin(angle)[:, None, :]
        even, odd = x[..., 0::2], x[..., 1::2]
        return numpy.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape).astype(numpy.float32)

    def logits(self, ids):
        w, n = self.weights, len(ids)
        x = w["token_embd.weight"][ids]
        mask = numpy.triu(numpy.full((n, n), -numpy.inf, numpy.float32), 1)
        for i in range(self.layers):
            at = f"blk.{i}."
            h = self.norm(x, at + "attn_norm.weight")
            q, k, v = (h @ w[at + name].T for name in ("attn_q.weight", "attn_k.weight", "attn_v.weight"))
            q = self.rotate(q.reshape(n, self.heads, -1))
            k = self.rotate(k.reshape(n, self.kv_heads, -1))
            v = v.reshape(n, self.kv_heads, -1)
            out = []
            for head in range(self.heads):
                other = head * self.kv_heads // self.heads
                score = q[:, head] @ k[:, other].T / numpy.sqrt(q.shape[-1]) + mask
                score = numpy.exp(score - score.max(-1, keepdims=True))
                out.append(score / score.sum(-1, keepdims=True) @ v[:, other])
            x = x + numpy.concatenate(out, -1) @ w[at + "attn_output.weight"].T
            h = self.norm(x, at + "ffn_norm.weight")
            gate = h @ w[at + "ffn_gate.weight"].T
            x = x + gate / (1 + numpy.exp(-gate)) * (h @ w[at + "ffn_up.weight"].T) @ w[at + "ffn_down.weight"].T
        return self.norm(x[-1], "output_norm.weight") @ w["token_embd.weight"].T


words = make_tokenizer()
model = Llama()
golden = {"prose": [], "continuations": []}
for text in PROSE:
    ids = words.encode(text).ids
    golden["prose"].append({"text": text, "ids": ids, "decoded": words.decode(ids)})
for prompt in PROMPTS:
    ids = words.encode(prompt).ids
    case = {"prompt": prompt, "prompt_ids": list(ids), "greedy_ids": [], "margins": []}
    for _ in range(LENGTH):
        logits = model.logits(ids)
        best, second = numpy.argsort(logits)[[-1, -2]]
        case["margins"].append(round(float(logits[best] - logits[second]), 4))
        case["greedy_ids"].append(int(best))
        ids = ids + [int(best)]
        if best == fields["tokenizer.ggml.eos_token_id"]:
            break
    case["text"] = words.decode(case["greedy_ids"])
    golden["continuations"].append(case)
    print(prompt, "->", case["text"], case["margins"])
with open(OUT, "w") as file:
    json.dump(golden, file, indent=1)
    file.write("\n")
