#!/usr/bin/env python3
"""Writes sentencepiece.json: what Hugging Face's `tokenizers` and SentencePiece itself make of prose and random Unicode with
a small vocabulary of the kind that Llama 2, TinyLlama and Mistral 7B have.

Run from the repository root with the packages `tokenizers` and `sentencepiece` installed. A BPE with byte fallback is trained
by SentencePiece with Llama 2's settings and converted to tokenizer.json as transformers does it: a merge for each way to cut
a piece in two, the best score first. Each variant is that file with a JSON merge patch.
"""
import io
import json
import random

import sentencepiece
import tokenizers
from make_tokenizer_random import DEMO, LONG, character, fingerprint, merge_patch, shown, unicodedata

OUT = "tests/golden/sentencepiece.json"
PIECES = 700
MARK = "\u2581"
CASES = 40
WORDS = ["[INST]", "[/INST]", "<s>", "</s>", "<unk>", "<tool>", "<0x0A>", "<0x41>", MARK, MARK + MARK, "  ", "   ", " the", "ing"]


def prose():
    with open(DEMO + "golden.json", encoding="utf-8") as file:
        novel = "".join(case.get("greedy_text") or "" for case in json.load(file)["model_cases"])
    with open(LONG, encoding="utf-8") as file:
        licence = file.read()
    return novel, licence


def train(texts):
    """The pieces in order: (text, score, type as GGUF numbers it)."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe", vocab_size=PIECES, byte_fallback=True,
        character_coverage=0.9995, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
        split_digits=True, allow_whitespace_only_pieces=True, user_defined_symbols=["<tool>"], num_threads=1,
        minloglevel=2, hard_vocab_limit=False)
    words = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = []
    for i in range(words.get_piece_size()):
        kind = (2 if words.is_unknown(i) else 3 if words.is_control(i) else 6 if words.is_byte(i)
                else 4 if words.id_to_piece(i) == "<tool>" else 1)
        pieces.append((words.id_to_piece(i), words.get_score(i), kind))
    return words, pieces


def merges_of(pieces):
    ids = {text: i for i, (text, _, _) in enumerate(pieces)}
    found = []
    for text, score, kind in pieces:
        if kind != 1:
            continue
        cuts = [(text[:i], text[i:]) for i in range(1, len(text))]
        cuts = [(left, right) for left, right in cuts if left in ids and right in ids]
        found += [(left, right, score) for left, right in sorted(cuts, key=lambda c: (ids[c[0]], ids[c[1]]))]
    found.sort(key=lambda merge: (merge[2], len(merge[0]), len(merge[1])), reverse=True)
    return [[left, right] for left, right, _ in found]


def replace(old, new):
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": split}


def document(pieces):
    def added(i, special, normalized):
        return {"id": i, "content": pieces[i][0], "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": normalized, "special": special}

    def special(name):
        return {"SpecialToken": {"id": name, "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    tool = next(i for i, piece in enumerate(pieces) if piece[2] == 4)
    return {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [added(i, True, False) for i in range(3)] + [added(tool, False, False)],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": MARK}, replace(" ", MARK)]},
        "pre_tokenizer": None,
        "post_processor": {"type": "TemplateProcessing", "single": [special("<s>"), text], "pair": [text, text],
                           "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [replace(MARK, " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                                                     {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                  "vocab": {piece[0]: i for i, piece in enumerate(pieces)}, "merges": merges_of(pieces)},
    }


def variants(pieces):
    tool = next(i for i, piece in enumerate(pieces) if piece[2] == 4)
    more = [{"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": normal,
             "special": special}
            for i, content, special, normal in ((0, "<unk>", True, True), (1, "<s>", True, True), (2, "</s>", True, False),
                                                (tool, "<tool>", False, True), (len(pieces), "[INST]", True, False),
                                                (len(pieces) + 1, "[/INST]", False, False))]
    no_bytes = {piece[0]: None for piece in pieces if piece[2] == 6}
    return {
        "llama2": {},
        "old llama": {"added_tokens": more},  # marks its special tokens as normalized
        "mistral v0.3": {"normalizer": None, "pre_tokenizer": metaspace("first", False), "added_tokens": more},
        "words": {"normalizer": None, "pre_tokenizer": metaspace("always", True)},
        "first word": {"normalizer": {"type": "NFC"}, "pre_tokenizer": metaspace("first", True), "added_tokens": more},
        "no prefix": {"normalizer": None, "pre_tokenizer": metaspace("never", True), "model": {"ignore_merges": True}},
        "before schemes": {"normalizer": None, "pre_tokenizer":
                           {"type": "Metaspace", "replacement": MARK, "add_prefix_space": True}},
        "yi": {"normalizer": replace(" ", MARK), "decoder": {"type": "Sequence", "decoders": [
            replace(MARK, " "), {"type": "ByteFallback"}, {"type": "Fuse"}]}},
        "unknown": {"model": {"byte_fallback": False, "vocab": no_bytes}},
        "unknown, each": {"model": {"byte_fallback": False, "fuse_unk": False, "vocab": no_bytes}},
        "unknown, none": {"model": {"byte_fallback": False, "unk_token": None, "vocab": no_bytes}},
    }


def sample_of(rng, novel, i):
    if i % 5 == 0:
        start = rng.randrange(len(novel) - 90)
        return novel[start:start + rng.randrange(90)]
    parts = (rng.choice(WORDS) if rng.random() < 0.25 else character(rng) for _ in range(rng.randrange(1, 40)))
    # Characters of Unicode 3.2 only: every later database agrees on their categories and normal forms.
    return "".join(c for c in "".join(parts) if unicodedata.ucd_3_2_0.category(c) not in ("Cn", "Cs"))


def main():
    rng = random.Random(7)
    novel, licence = prose()
    spm, pieces = train(novel.splitlines() + licence.splitlines())
    base = document(pieces)
    out = []
    for name, patch in variants(pieces).items():
        words = tokenizers.Tokenizer.from_str(json.dumps(merge_patch(base, patch)))
        # By hand: this version of the package does not know special tokens again when the normalizer changes their text.
        special = {i for i, token in words.get_added_tokens_decoder().items() if token.special}
        cases = []
        for i in range(CASES):
            sample = sample_of(rng, novel, i)
            words.encode_special_tokens = False
            ids = words.encode(sample).ids
            words.encode_special_tokens = True
            case = {"text": sample, "ids": ids, "plain_ids": words.encode(sample, add_special_tokens=False).ids,
                    "decoded": words.decode([i for i in ids if i not in special], skip_special_tokens=True)}
            if case["decoded"] == sample:
                del case["decoded"]
            if name in ("llama2", "mistral v0.3", "yi"):
                case["shown"] = shown(words, ids)
            if name == "llama2" and not any(piece in sample for piece in ("<s>", "</s>", "<unk>", "<tool>")):
                case["spm_ids"] = spm.encode(sample)
            cases.append(case)
        words.encode_special_tokens = True
        out.append({"name": name, "patch": patch, "cases": cases,
                    "long": fingerprint(words.encode(licence, add_special_tokens=False).ids)})
    header = (f"tokenizers {tokenizers.__version__} and sentencepiece {sentencepiece.__version__} by make_sentencepiece.py. "
              "ids, plain_ids, decoded, shown, long: as in tokenizer_random.json; spm_ids: SentencePiece's own; pieces: text, "
              "score, GGUF's type.")
    with open(OUT, "w", encoding="utf-8") as file:
        json.dump({"header": header, "pieces": pieces, "document": base, "variants": out}, file, ensure_ascii=True,
                  separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
