#!/usr/bin/env python3
"""What each `--dtype` does to the embedded model's log-likelihood of held-out text.

    dtypes.py --logprobs LOGPROBS --heldout FILE [--pieces 40]

LOGPROBS is `target/release/examples/logprobs`, FILE what `src/nano/train/corpus.py` wrote as `heldout.bin`. Prints a
table in Markdown: the mean log-likelihood of a token, and its change against the weights as stored.
"""

import argparse
import json
import subprocess
from pathlib import Path
from statistics import fmean

import numpy as np

PIECE = 1024
DTYPES = ("bf16", "f16", "f32", "q8_0", "q6_k", "q5_k", "q4_k")


def log_likelihood(program: Path, pieces: list[list[int]], dtype: str) -> float:
    def of_piece(tokens: list[int]) -> list[float]:
        command = [program, "nano", "exact", dtype]
        run = subprocess.run(command, input=json.dumps(tokens), capture_output=True, text=True, check=True)
        return json.loads(run.stdout)

    return fmean(logprob for tokens in pieces for logprob in of_piece(tokens))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logprobs", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--pieces", type=int, default=40)
    args = parser.parse_args()
    tokens = np.fromfile(args.heldout, dtype="<u2", count=args.pieces * PIECE).reshape(-1, PIECE).tolist()
    stored = log_likelihood(args.logprobs, tokens, DTYPES[0])
    print("| `--dtype` | log-likelihood of a token | change |")
    print("| --- | --- | --- |")
    for dtype in DTYPES:
        found = log_likelihood(args.logprobs, tokens, dtype)
        print(f"| `{dtype}` | {found:.5f} | {found - stored:+.5f} |", flush=True)


if __name__ == "__main__":
    main()
