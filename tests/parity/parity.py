#!/usr/bin/env python3
"""Compares hflex with Hugging Face transformers on a model: the same prompts, their logits and greedy tokens.

Run by hand, in an environment with torch (CPU) and transformers (and gguf and accelerate for GGUF files). The reference computes in f32 on
weights rounded to bf16, which is what hflex holds. For each prompt, at its last position and along hflex's greedy continuation:
  f32     largest difference of logits, absolute and relative to the largest logit of the position; whose choices differ
  bf16    the same of hflex's fast mode along the same tokens, and of transformers' own bf16 for comparison
A choice that differs where the reference's logits are closer than --tie is rounding, not a fault.
Exit code 0: ids of all prompts and f32's choices agree (or part at a tie) and f32's relative difference is below --most;
1: not so, 2: bad usage.
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys

PROMPTS = ["The capital of France is", "It is a truth universally acknowledged, that", "1, 2, 3, 4,",
           "def fibonacci(n):\n    ", "\u00c0 la recherche du temps \u2014 caf\u00e9 \U0001f642"]


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  tests/parity/parity.py examples/models/austen-2.7m\n"
               "  tests/parity/parity.py /models/qwen2.5-0.5b-instruct --chat --max-tokens 64\n"
               "  tests/parity/parity.py \"$(tools/get-model smollm2)\"")
    parser.add_argument("model", type=pathlib.Path, help="a Hugging Face directory or a GGUF file")
    parser.add_argument("--hflex", default="build/tools/hflex", help="the program (default: %(default)s)")
    parser.add_argument("--prompts", type=pathlib.Path, help="a text file, one prompt on a line, instead of the built-in ones")
    parser.add_argument("--chat", action="store_true", help="frame the prompts by the model's chat template")
    parser.add_argument("--max-tokens", type=int, default=32, help="tokens of each continuation (default: %(default)s)")
    parser.add_argument("--tie", type=float, default=1e-3,
                        help="logits closer than this, relative to the largest, count as equal (default: %(default)s)")
    parser.add_argument("--most", type=float, default=1e-4,
                        help="largest relative difference of f32's logits (default: %(default)s)")
    parser.add_argument("-o", "--output", type=pathlib.Path, help="write the figures to this file as JSON")
    options = parser.parse_args()
    if not options.model.is_file() and not (options.model / "config.json").is_file():
        parser.error(f"{options.model}: no config.json")
    if not os.access(options.hflex, os.X_OK):
        parser.error(f"{options.hflex}: not a program; build it, or say --hflex PATH")
    return options


def ask_hflex(options, *words):
    command = [options.hflex, "model", "logits", str(options.model), "--all", "-o", "json", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        sys.exit(f"failed: {' '.join(command)}")
    return json.loads(done.stdout)


class Reference:
    def __init__(self, options):
        import torch
        import transformers
        self.torch = torch
        self.chat = options.chat
        place, more = options.model, {}
        if options.model.is_file():
            place, more = options.model.parent, {"gguf_file": options.model.name}
        self.words = transformers.AutoTokenizer.from_pretrained(place, **more)
        self.versions = f"transformers {transformers.__version__}, torch {torch.__version__}"

        def load(dtype):
            return transformers.AutoModelForCausalLM.from_pretrained(
                place, dtype=dtype, attn_implementation="eager", **more).eval()
        self.models = {torch.float32: load(torch.float32), torch.bfloat16: load(torch.bfloat16)}
        with torch.no_grad():
            for weight in self.models[torch.float32].parameters():  # not the buffers: rotations are computed in f32
                weight.copy_(weight.bfloat16())

    def ids(self, prompt):
        if not self.chat:
            return self.words(prompt).input_ids
        text = self.words.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False,
                                              add_generation_prompt=True)
        return self.words(text, add_special_tokens=False).input_ids

    def rows(self, ids, last, dtype):
        with self.torch.no_grad():
            return self.models[dtype](self.torch.tensor([ids])).logits[0, -last:].float()


def difference(reference, found):
    """(largest absolute, largest relative to the largest logit of its position)."""
    gaps = (reference - found).abs().amax(dim=1)
    return float(gaps.max()), float((gaps / reference.abs().amax(dim=1)).max())


def compare(reference, options, prompt):
    """The figures of one prompt, and what is wrong with it."""
    torch = reference.torch
    chat = ["--chat"] if options.chat else []
    mine = ask_hflex(options, "-p", prompt, *chat, "--compute", "f32", "--generate", str(options.max_tokens))
    ids = reference.ids(prompt)
    if mine["tokens"] != ids:
        return {}, f"hflex makes other tokens of it: {mine['tokens']}, transformers {ids}"
    text = ids + mine["continuation"][:-1]
    count = len(mine["rows"])
    fast = ask_hflex(options, "--tokens", ",".join(map(str, text)), "--last", str(count), "--compute", "bf16")
    right = reference.rows(text, count, torch.float32)
    figures, fault = {"prompt_tokens": len(ids), "positions": count}, None
    found = {"f32": torch.tensor([row["logits"] for row in mine["rows"]]),
             "bf16": torch.tensor([row["logits"] for row in fast["rows"]]),
             "transformers_bf16": reference.rows(text, count, torch.bfloat16)}
    for name, rows in found.items():
        largest, relative = difference(right, rows)
        figures[name] = {"max_abs": largest, "max_rel": relative,
                         "same_choice": int((rows.argmax(dim=1) == right.argmax(dim=1)).sum())}
    if figures["f32"]["max_rel"] > options.most:
        fault = f"f32's logits are {figures['f32']['max_rel']:.2g} away"
    for i, (row, token) in enumerate(zip(right, mine["continuation"])):
        gap = float((row.max() - row[token]) / row.abs().max())
        if gap >= options.tie:
            fault = f"token {i}: hflex {token}, transformers {int(row.argmax())}; logits {gap:.2g} apart"
            break
    return figures, fault


def main():
    options = arguments()
    prompts = options.prompts.read_text(encoding="utf-8").splitlines() if options.prompts else PROMPTS
    reference = Reference(options)
    failed, results = 0, []
    for prompt in prompts:
        figures, fault = compare(reference, options, prompt)
        failed += fault is not None
        results.append({"prompt": prompt, **figures, "fault": fault})
        print(f"{'DIFFERENT' if fault else 'same'}  {prompt[:40]!r}: {fault or ''}")
        for name in ("f32", "bf16", "transformers_bf16"):
            if name in figures:
                one = figures[name]
                print(f"      {name:18} max {one['max_abs']:.3g}, relative {one['max_rel']:.2g}, "
                      f"choices alike {one['same_choice']} of {figures['positions']}")
    print(f"{len(prompts) - failed} of {len(prompts)} prompts agree ({reference.versions})")
    if options.output:
        options.output.write_text(json.dumps({"reference": reference.versions, "prompts": results}) + "\n", encoding="utf-8")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
