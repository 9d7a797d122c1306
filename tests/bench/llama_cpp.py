#!/usr/bin/env python3
"""hflex and a llama.cpp found on PATH on the same GGUF file, side by side in one run.

Rounds alternate between the two, so that what disturbs the machine disturbs both; medians count. Needs llama-bench on
PATH and a GGUF file in bf16 (llama-quantize --allow-requantize FILE bf16.gguf BF16 makes one). llama-bench has no batch
of separate sequences: its "batch B" is a chunk of B tokens of one sequence with B as its largest micro-batch, which
reads the weights once and computes one row of logits, so it flatters llama.cpp.

  tests/bench/llama_cpp.py --gguf smollm2-bf16.gguf --hflex build/tools/hflex --threads 2
  tests/bench/llama_cpp.py --gguf smollm2-bf16.gguf -o json > result.json
"""
import argparse
import json
import shutil
import statistics
import subprocess
import sys


def llama(gguf, threads, prompt, generate, batch, depth):
    """Tokens per second of one llama-bench test."""
    words = ["llama-bench", "-m", gguf, "-t", str(threads), "-r", "2", "-p", str(prompt), "-n", str(generate),
             "-d", str(depth), "-o", "json"]
    if batch:
        words += ["-b", str(batch), "-ub", str(batch)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"llama-bench failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)[-1]["avg_ts"]


def hflex(program, gguf, threads, isa, batches, depth, prompt):
    """Tokens per second by (phase, batch), of one hflex bench engine."""
    words = [program, "bench", "engine", "--model", gguf, "--threads", str(threads), "--batch",
             ",".join(map(str, batches)), "--prompt", f"{depth},{prompt}", "--seconds", "0.4", "-o", "json"]
    if isa:
        words += ["--isa", isa]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"hflex bench engine failed ({done.returncode}):\n{done.stderr[-2000:]}")
    points = json.loads(done.stdout)["points"]
    found = {("decode", p["batch"]): p["tokens_per_s"] for p in points
             if p["phase"] == "decode" and p["context"] == depth}
    found["prefill", prompt] = next(p["tokens_per_s"] for p in points
                                    if p["phase"] == "prefill" and p["context"] == prompt)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", required=True, help="the model, in bf16")
    parser.add_argument("--hflex", default="build/tools/hflex", help="the program (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", default="", help="kernels of hflex instead of this CPU's best")
    parser.add_argument("--batches", default="1,4,8,16,32")
    parser.add_argument("--depth", type=int, default=128, help="context that decode reads")
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    arguments = parser.parse_args()
    if not shutil.which("llama-bench"):
        sys.exit("llama-bench is not on PATH: install llama.cpp (Debian: llama.cpp-tools)")
    batches = [int(b) for b in arguments.batches.split(",")]
    keys = [("prefill", arguments.prompt)] + [("decode", b) for b in batches]
    theirs, ours = {k: [] for k in keys}, {k: [] for k in keys}
    for number in range(arguments.rounds):
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
        for phase, size in keys:
            if phase == "prefill":
                speed = llama(arguments.gguf, arguments.threads, size, 0, 0, 0)
            elif size == 1:
                speed = llama(arguments.gguf, arguments.threads, 0, 32, 0, arguments.depth)
            else:
                speed = llama(arguments.gguf, arguments.threads, size, 0, size, arguments.depth)
            theirs[phase, size].append(speed)
        measured = hflex(arguments.hflex, arguments.gguf, arguments.threads, arguments.isa, batches, arguments.depth,
                         arguments.prompt)
        for key in keys:
            ours[key].append(measured[key])
    rows = [{"phase": phase, "size": size, "llama_cpp_tokens_per_s": statistics.median(theirs[phase, size]),
             "hflex_tokens_per_s": statistics.median(ours[phase, size]),
             "ratio": statistics.median(ours[phase, size]) / statistics.median(theirs[phase, size])}
            for phase, size in keys]
    if arguments.output == "json":
        print(json.dumps({"threads": arguments.threads, "isa": arguments.isa or "best", "rows": rows}))
        return
    print(f"{'PHASE':8} {'SIZE':>6} {'LLAMA.CPP tok/s':>16} {'HFLEX tok/s':>12} {'RATIO':>6}")
    for r in rows:
        print(f"{r['phase']:8} {r['size']:6} {r['llama_cpp_tokens_per_s']:16.0f} {r['hflex_tokens_per_s']:12.0f} "
              f"{r['ratio']:6.2f}")


if __name__ == "__main__":
    main()
