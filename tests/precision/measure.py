#!/usr/bin/env python3
"""How far log-probabilities are from float64: blazr's, and those of transformers in bfloat16 on the same checkpoint.

    measure.py --logprobs LOGPROBS [--tokens 256] [--device cpu] [--blocks q8_0,q4_k] CHECKPOINT...

LOGPROBS is `target/release/examples/logprobs`. Each checkpoint reads random tokens; the reference is transformers in
float64 on the same weights, on the CPU whatever --device says. With --blocks weights are held so, and blazr's fast is
set against its exact, which is then the reference. Prints a table in Markdown: root mean square and largest error.
Needs torch and transformers; on a GPU (`--device cuda:0`) LOGPROBS built with `--features cuda`.
"""

import argparse
import json
import subprocess
from collections.abc import Iterator
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


def of_blazr(
    program: Path,
    checkpoint: Path,
    tokens: list[int],
    precision: str,
    device: str,
    dtype: str = "auto",
    piece: int | None = None,
) -> torch.Tensor:
    """With the tokens taken in as a prompt, or in pieces: those of one are decoding."""
    command = [program, checkpoint, precision, dtype, device, *([] if piece is None else [str(piece)])]
    run = subprocess.run(command, input=json.dumps(tokens), capture_output=True, text=True, check=True)
    return torch.tensor(json.loads(run.stdout), dtype=torch.float64)


def against_float64(args: argparse.Namespace, checkpoint: Path) -> Iterator[list[str]]:
    tokens = tokens_for(checkpoint, args.tokens)
    reference = of_transformers(checkpoint, tokens, torch.float64, "cpu")
    of_ours = [
        of_blazr(args.logprobs, checkpoint, tokens, precision, args.device, piece=piece)
        for precision in ("exact", "fast")
        for piece in (None, 1)
    ]
    yield cells([checkpoint.name], [*of_ours, of_transformers(checkpoint, tokens, torch.bfloat16, args.device)], reference)


def against_exact(args: argparse.Namespace, checkpoint: Path) -> Iterator[list[str]]:
    tokens = tokens_for(checkpoint, args.tokens)
    for dtype in args.blocks:
        exact, prompt, decoded = (
            of_blazr(args.logprobs, checkpoint, tokens, precision, args.device, dtype, piece)
            for precision, piece in (("exact", None), ("fast", None), ("fast", 1))
        )
        yield cells([checkpoint.name, dtype], [prompt, decoded], exact)


def cells(names: list[str], found: list[torch.Tensor], reference: torch.Tensor) -> list[str]:
    errors = [(logprobs - reference).abs() for logprobs in found]
    return [*names, *(f"{error.square().mean().sqrt():.1e} ({error.max():.1e})" for error in errors)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logprobs", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--blocks", type=lambda names: names.split(","), default=[])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    args = parser.parse_args()
    if args.blocks:
        head, rows = ["checkpoint", "weights", "fast: a prompt", "decoding"], against_exact
    else:
        ours = [f"blazr {precision}: {how}" for precision in ("exact", "fast") for how in ("a prompt", "decoding")]
        head, rows = ["checkpoint", *ours, "transformers bf16"], against_float64
    for row in (head, ["---"] * len(head)):
        print("|", " | ".join(row), "|")
    for checkpoint in args.checkpoints:
        for row in rows(args, checkpoint):
            print("|", " | ".join(row), "|", flush=True)


if __name__ == "__main__":
    main()
