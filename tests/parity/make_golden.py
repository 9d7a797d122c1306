#!/usr/bin/env python3
"""Writes tests/unit/gpu/golden/: tiny random checkpoints of every model family, with what Hugging Face transformers
computes for them.

Run from the repository root with torch (CPU) and transformers installed. Seeds are fixed; the weights are rounded to
bf16, which is what the files hold, and the reference is computed from them in f32. Each folder is one checkpoint and
its golden.json: prompts as ids, the logits of the prompt's last position, and the greedy continuation.
"""
import json
import pathlib
import shutil

import torch
import transformers

OUT = pathlib.Path("tests/unit/gpu/golden")
COMMON = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
          "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
          "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "factor": 4.0}


def old_rope(config, scaling):
    """The spelling before transformers 5: rope_theta and rope_scaling at the top level."""
    theta = (config.pop("rope_parameters", None) or {}).get("rope_theta") or config.get("rope_theta")
    return {**config, "rope_theta": theta, "rope_scaling": scaling}


def new_rope(config, scaling):
    theta = (config.pop("rope_parameters", None) or {}).get("rope_theta") or config.get("rope_theta")
    for key in ("rope_theta", "rope_scaling"):
        config.pop(key, None)
    return {**config, "rope_parameters": {"rope_type": "default", **(scaling or {}), "rope_theta": theta}}


# name: (class of the model, its own settings, rope scaling, spelling of it, bytes in one shard, longest prompt)
FAMILIES = {
    "llama": ("Llama", {"tie_word_embeddings": False}, None, old_rope, "64KB", 40),
    "llama3-rope": ("Llama", {"rope_theta": 1000.0}, LLAMA3, old_rope, "1MB", 80),
    "linear-rope": ("Llama", {"head_dim": 32, "num_key_value_heads": 1}, LINEAR, new_rope, "1MB", 40),
    "mistral": ("Mistral", {"head_dim": 48, "num_attention_heads": 2, "num_key_value_heads": 1, "sliding_window": 64}, None, old_rope, "1MB", 30),
    "qwen2": ("Qwen2", {"use_sliding_window": False, "rope_theta": 1e6}, None, old_rope, "1MB", 40),
    "qwen3": ("Qwen3", {"head_dim": 32, "num_attention_heads": 3, "num_key_value_heads": 1, "attention_bias": False},
              None, new_rope, "1MB", 40),
}


def randomize(model):
    """Values large enough that attention, biases and norms all matter, as bf16 holds them."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape)
            if "norm" in name:
                value.copy_(1 + 0.3 * noise)
            elif name.endswith("bias"):
                value.copy_(noise)
            elif "embed_tokens" in name:
                value.copy_(0.5 * noise)
            else:
                value.copy_(1.5 * noise / value.shape[-1] ** 0.5)
            value.copy_(value.to(torch.bfloat16))


def golden_of(model, length, steps=24):
    ids = torch.randint(2, model.config.vocab_size, (1, length))
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
        out = ids
        margin = float("inf")
        for _ in range(steps):
            last = model(out).logits[0, -1]
            best = last.topk(2)
            margin = min(margin, float(best.values[0] - best.values[1]))
            out = torch.cat([out, best.indices[:1].reshape(1, 1)], dim=1)
    return margin, {"prompt_ids": ids[0].tolist(), "logits": [float(f"{x:.7g}") for x in logits.tolist()],
                    "greedy_ids": out[0, length:].tolist()}


def write_family(name):
    kind, settings, scaling, spelling, shard, longest = FAMILIES[name]
    path = OUT / name
    shutil.rmtree(path, ignore_errors=True)
    config_class = getattr(transformers, kind + "Config")
    fresh = config_class(**{**COMMON, "rope_theta": 10000.0, **settings})
    stored = spelling(fresh.to_dict(), scaling)
    for seed in range(100):
        torch.manual_seed(seed)
        config = config_class.from_dict(dict(stored))
        config._attn_implementation = "eager"
        model = getattr(transformers, kind + "ForCausalLM")(config).to(torch.float32).eval()
        randomize(model)
        cases = [golden_of(model, length) for length in (7, longest)]
        # A margin that a float's rounding cannot turn: ids must come out exactly.
        if min(margin for margin, _ in cases) > 0.02:
            break
    model.to(torch.bfloat16).save_pretrained(path, max_shard_size=shard)
    (path / "generation_config.json").unlink(missing_ok=True)
    for file in path.iterdir():
        file.chmod(0o644)
    kept = {key: value for key, value in stored.items() if value is not None or key == "sliding_window"}
    kept["architectures"] = [kind + "ForCausalLM"]
    (path / "config.json").write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    header = (f"transformers {transformers.__version__}, torch {torch.__version__}, f32 on bf16 weights, "
              f"by tests/parity/make_golden.py, seed {seed}")
    golden = {"header": header, "cases": [case for _, case in cases]}
    (path / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")


def main():
    torch.set_num_threads(1)
    for name in FAMILIES:
        write_family(name)


if __name__ == "__main__":
    main()
