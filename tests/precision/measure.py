#!/usr/bin/env python3
"""How far log-probabilities are from float64: blazr's, and those of transformers in bfloat16 on the same checkpoint.

    measure.py --logprobs LOGPROBS [--tokens 256] [--device cpu] CHECKPOINT...

LOGPROBS is `target/release/examples/logprobs`. Each checkpoint reads random tokens; the reference is transformers in
float64 on the same weights, on the CPU whatever --device says. Prints a table in Markdown: root mean square and largest
error. Needs torch and transformers; on a GPU (`--device cuda:0`) LOGPROBS built with `--features cuda`.
"""

import argparse
import json
import subprocess
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def tokens_for(checkpoint: Path, count: int) -> list[int]:
    vocab_size = json.loads((checkpoint / "config.json").read_text())["vocab_size"]
    return torch.randint(3, vocab_size, (count,), generator=torch.Generator().manual_seed(1)).tolist()


@torch.inference_mode()
def of_transformers(checkpoint: Path, tokens: list[int], dtype: torch.dtype, device: str) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype).eval().to(device)
    logits = model(torch.tensor([tokens], device=device), use_cache=False).logits[0, :-1].double().cpu()
    return torch.log_softmax(logits, -1)[torch.arange(len(tokens) - 1), tokens[1:]]


def of_blazr(program: Path, checkpoint: Path, tokens: list[int], precision: str, device: str) -> torch.Tensor:
    command = [program, checkpoint, precision, "auto", device]
    run = subprocess.run(command, input=json.dumps(tokens), capture_output=True, text=True, check=True)
    return torch.tensor(json.loads(run.stdout), dtype=torch.float64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logprobs", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("checkpoints", type=Path, nargs="+")
    args = parser.parse_args()
    print("| checkpoint | blazr exact | blazr fast | transformers bf16 |")
    print("| --- | --- | --- | --- |")
    for checkpoint in args.checkpoints:
        tokens = tokens_for(checkpoint, args.tokens)
        reference = of_transformers(checkpoint, tokens, torch.float64, "cpu")
        found = [
            of_blazr(args.logprobs, checkpoint, tokens, "exact", args.device),
            of_blazr(args.logprobs, checkpoint, tokens, "fast", args.device),
            of_transformers(checkpoint, tokens, torch.bfloat16, args.device),
        ]
        errors = [(logprobs - reference).abs() for logprobs in found]
        cells = [f"{error.square().mean().sqrt():.1e} ({error.max():.1e})" for error in errors]
        print("|", " | ".join([checkpoint.name, *cells]), "|", flush=True)


if __name__ == "__main__":
    main()
