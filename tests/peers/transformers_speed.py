#!/usr/bin/env python3
"""How fast transformers takes a prompt in and decodes: one run of each after one that is not timed, as JSON.

    transformers_speed.py MODEL_DIR [--device cpu] [--threads 2] [--prefill 512] [--decode 64]

The model is called as its generation loop would call it, without that loop: `model(tokens, use_cache=True,
logits_to_keep=1)` for the prompt and, from an empty cache as llama-bench has it, for one token after the other with the
cache that came back. Weights are bf16. Needs torch and transformers.
"""

import argparse
import json
import time

import torch
import transformers

# Attention's cache has the one name and a pure state-space model's the other.
CACHES = ("past_key_values", "cache_params")


def forward(model: torch.nn.Module, tokens: torch.Tensor, cache: dict) -> dict:
    """Takes tokens in, with what stands in the cache before them; gives the cache after them."""
    output = model(tokens, use_cache=True, logits_to_keep=1, **cache)
    return {name: output[name] for name in CACHES if output.get(name) is not None}


def finish(model: torch.nn.Module) -> None:
    """Waits for what was only handed to a GPU."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)


def prefill_seconds(model: torch.nn.Module, tokens: torch.Tensor) -> float:
    start = time.perf_counter()
    forward(model, tokens, {})
    finish(model)
    return time.perf_counter() - start


def decode_seconds(model: torch.nn.Module, tokens: torch.Tensor) -> float:
    cache: dict = {}
    start = time.perf_counter()
    for token in tokens.split(1, dim=1):
        cache = forward(model, token, cache)
        finish(model)  # whoever generates looks at each token
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=64)
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16)
    model = model.eval().to(args.device)
    tokens = torch.randint(model.config.vocab_size, (1, max(args.prefill, args.decode))).to(args.device)
    with torch.inference_mode():
        decode_seconds(model, tokens[:, :4])
        prefill_seconds(model, tokens[:, : args.prefill])
        prefill = args.prefill / prefill_seconds(model, tokens[:, : args.prefill])
        decode = args.decode / decode_seconds(model, tokens[:, : args.decode])
    versions = f"transformers {transformers.__version__}, PyTorch {torch.__version__}"
    print(json.dumps({"prefill": prefill, "decode": decode, "version": versions}))


if __name__ == "__main__":
    main()
