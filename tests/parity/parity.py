#!/usr/bin/env python3
"""Compares hflex with Hugging Face transformers on a model directory: the same prompts, greedy, token by token.

Run by hand, in an environment with torch (CPU) and transformers. hflex computes in f32 here; both take the weights rounded
to bf16. Where the texts part, the reference's logits say by how much: a difference below --tie is rounding, not a fault.
Exit code 0: all prompts agree (or part at a tie), 1: one does not, 2: bad usage.
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
               "  tests/parity/parity.py /models/qwen2.5-0.5b-instruct --chat --max-tokens 64")
    parser.add_argument("model", type=pathlib.Path, help="a Hugging Face directory")
    parser.add_argument("--hflex", default="build/tools/hflex", help="the program (default: %(default)s)")
    parser.add_argument("--prompts", type=pathlib.Path, help="a text file, one prompt on a line, instead of the built-in ones")
    parser.add_argument("--chat", action="store_true", help="send the prompts as messages through the chat template")
    parser.add_argument("--max-tokens", type=int, default=32, help="tokens of each continuation (default: %(default)s)")
    parser.add_argument("--tie", type=float, default=1e-3,
                        help="logits closer than this, relative to the largest, count as equal (default: %(default)s)")
    options = parser.parse_args()
    if not (options.model / "config.json").is_file():
        parser.error(f"{options.model}: no config.json")
    if not os.access(options.hflex, os.X_OK):
        parser.error(f"{options.hflex}: not a program; build it, or say --hflex PATH")
    return options


def ask_hflex(options, prompts):
    """One record per prompt, as `hflex submit -o json` prints them."""
    environment = {**os.environ, "HFLEX_INSTANCE_COMPUTE": "f32"}
    up = subprocess.Popen([options.hflex, "up", "--port", "0", "--model", str(options.model)], env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line = up.stdout.readline()
        if "head listens on" not in line:
            sys.exit(f"hflex up did not start; try: {options.hflex} model check {options.model}")
        head = ["--head", line.split()[-1]]
        subprocess.run([options.hflex, "ready", "--for-s", "300", *head], check=True)
        records = []
        for prompt in prompts:  # one after another, so that records come in order
            job = {"max_tokens": options.max_tokens, "ignore_eos": True}
            job.update({"messages": [{"role": "user", "content": prompt}]} if options.chat else {"prompt": prompt})
            out = subprocess.run([options.hflex, "submit", "-", "-o", "json", *head], input=json.dumps(job) + "\n",
                                 stdout=subprocess.PIPE, text=True, check=False)
            records.append(json.loads(out.stdout))
        return records
    finally:
        up.terminate()
        up.wait()


class Reference:
    def __init__(self, options):
        import torch
        import transformers
        self.torch = torch
        self.chat = options.chat
        self.words = transformers.AutoTokenizer.from_pretrained(options.model)
        load = transformers.AutoModelForCausalLM.from_pretrained
        self.model = load(options.model, dtype=torch.bfloat16, attn_implementation="eager").float().eval()

    def ids(self, prompt):
        if not self.chat:
            return self.words(prompt).input_ids
        text = self.words.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False,
                                              add_generation_prompt=True)
        return self.words(text, add_special_tokens=False).input_ids

    def first_difference(self, prompt_ids, found):
        """Follows `found`; (index, reference's token, gap of logits relative to the largest) where it would not have."""
        with self.torch.no_grad():
            logits = self.model(self.torch.tensor([prompt_ids + found])).logits[0, len(prompt_ids) - 1:-1]
        for i, (row, token) in enumerate(zip(logits, found)):
            best = int(row.argmax())
            if best != token:
                return i, best, float((row[best] - row[token]) / row.abs().max())
        return None


def judge(reference, record, prompt, options):
    """(agrees, what to print)."""
    if record["outcome"] != "finished":
        return False, f"{record['outcome']}: {record['reason']}"
    ids = reference.ids(prompt)
    if len(ids) != record["prompt_tokens"]:
        return False, f"hflex makes {record['prompt_tokens']} tokens of the prompt, transformers {len(ids)}"
    found = record["token_ids"]
    if len(found) != options.max_tokens:
        return False, f"{len(found)} tokens instead of {options.max_tokens}"
    different = reference.first_difference(ids, found)
    if different is None:
        return True, f"{len(ids)} prompt tokens, {len(found)} tokens alike"
    index, best, gap = different
    text = f"token {index}: hflex {found[index]}, transformers {best}; logits {gap:.2g} apart"
    return gap < options.tie, text + (" (a tie)" if gap < options.tie else "")


def main():
    options = arguments()
    prompts = options.prompts.read_text(encoding="utf-8").splitlines() if options.prompts else PROMPTS
    records = ask_hflex(options, prompts)
    reference = Reference(options)
    failed = 0
    for prompt, record in zip(prompts, records):
        agrees, text = judge(reference, record, prompt, options)
        failed += not agrees
        print(f"{'same' if agrees else 'DIFFERENT'}  {prompt[:40]!r}: {text}")
    print(f"{len(prompts) - failed} of {len(prompts)} prompts agree")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
