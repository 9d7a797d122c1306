#!/usr/bin/env python3
"""Writes tokenizer_random.json: what Hugging Face's `tokenizers` makes of random Unicode and of prose.

Run from the repository root with the `tokenizers` package installed. Each variant is the demo model's tokenizer.json with a
JSON merge patch, so that one small vocabulary covers the pipelines of Llama 3, Qwen, SmolLM and GPT-2.
"""
import copy
import json
import random
import unicodedata

import tokenizers

DEMO = "examples/models/austen-2.7m/"
LONG = "LICENSE"
OUT = "tests/golden/tokenizer_random.json"
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+")


def added(id, content, **flags):
    token = {"id": id, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": False}
    return {**token, **flags}


def byte_level(use_regex):
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def split(regex):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


ADDED = [added(0, "<|begin_of_text|>", special=True), added(1, "<|end_of_text|>", special=True),
         added(2048, "<tool>"), added(2049, "<tool_call>", normalized=True), added(2050, "two words", normalized=True),
         added(2051, "<|im|>", special=True), added(2052, "<|im|>x", special=True)]
VARIANTS = {
    "llama3": {},
    "qwen": {"normalizer": {"type": "NFC"}, "added_tokens": ADDED, "model": {"ignore_merges": False},
             "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split(QWEN), byte_level(False)]}},
    "smollm": {"added_tokens": ADDED, "model": {"ignore_merges": False}, "post_processor": None,
               "pre_tokenizer": {"type": "Sequence",
                                 "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level(True)]}},
    "gpt2": {"added_tokens": ADDED, "pre_tokenizer": byte_level(True)},
}
PIECES = ["<|im|>", "<|im|>x", "<tool>", "<tool_call>", "two words", "'s", "'LL", "'\u017f", "caf\u00e9", "cafe\u0301",
          "<|end_of_text|>", "<|im", "  ", "\r\n", " \t", "Elizabeth", " Mr. Darcy", "could not", "1234"]


def merge_patch(target, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    target = copy.deepcopy(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merge_patch(target.get(key), value)
    return target


def character(rng):
    kind = rng.random()
    if kind < 0.3:
        return chr(rng.randrange(0x20, 0x7f))
    if kind < 0.4:
        return rng.choice(" \t\n\r\u00a0\u2003\u3000\u0085\u2028\u180e\u200b\u001c\u0000")
    if kind < 0.5:
        return rng.choice(PIECES)
    ranges = [(0xa1, 0x250), (0x300, 0x370), (0x370, 0x2000), (0x2000, 0x3000), (0x3040, 0xa000), (0xac00, 0xd7a4),
              (0xf900, 0x10000), (0x10000, 0x1fb00)]
    return chr(rng.randrange(*rng.choice(ranges)))


def text(rng):
    # Characters of Unicode 3.2 only: every later database agrees on their categories and normal forms.
    joined = "".join(character(rng) for _ in range(rng.randrange(1, 48)))
    return "".join(c for c in joined if unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs"))


def fingerprint(ids):
    """Of many ids: a polynomial over them, modulo 2^32."""
    value = 0
    for i in ids:
        value = (value * 1000003 + i) % 2**32
    return {"count": len(ids), "hash": value}


def shown(words, ids):
    """How many bytes of text a stream has shown after each token."""
    stream = tokenizers.decoders.DecodeStream(skip_special_tokens=True)
    counts, total = [], 0
    for i in ids:
        total += len((stream.step(words, i) or "").encode())
        counts.append(total)
    return counts


def main():
    rng = random.Random(20)
    with open(DEMO + "tokenizer.json", encoding="utf-8") as file:
        base = json.load(file)
    with open(DEMO + "golden.json", encoding="utf-8") as file:
        prose = "".join(case.get("greedy_text") or "" for case in json.load(file)["model_cases"])
    with open(LONG, encoding="utf-8") as file:
        long_text = file.read()
    variants = []
    for name, patch in VARIANTS.items():
        words = tokenizers.Tokenizer.from_str(json.dumps(merge_patch(base, patch)))
        cases = []
        for i in range(48):
            start = rng.randrange(len(prose) - 80)
            sample = prose[start:start + rng.randrange(80)] if i % 8 == 0 else text(rng)
            words.encode_special_tokens = False
            ids = words.encode(sample).ids
            decoded = words.decode(ids, skip_special_tokens=True)
            words.encode_special_tokens = True
            plain = words.encode(sample, add_special_tokens=False).ids
            case = {"text": sample, "ids": ids, "plain_ids": plain, "decoded": decoded}
            if decoded == sample:
                del case["decoded"]
            if name == "llama3":
                case["shown"] = shown(words, ids)
            cases.append(case)
        words.encode_special_tokens = True
        long_ids = fingerprint(words.encode(long_text, add_special_tokens=False).ids)
        variants.append({"name": name, "patch": patch, "cases": cases, "long": long_ids})
    header = (f"Hugging Face tokenizers {tokenizers.__version__} by make_tokenizer_random.py. ids: template and special "
              "tokens on; plain_ids: both off; decoded: ids without special tokens, left out where it is the text; shown: bytes "
              "that a stream has shown after each id; long: count and fingerprint of the ids of LICENSE.")
    with open(OUT, "w", encoding="utf-8") as file:
        json.dump({"header": header, "variants": variants}, file, ensure_ascii=True, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
