"""Measures the exported weights on held-out text, documents alone and behind others, in float32.

    python heldout.py --model DIR --data DIR [--tokens 150000]

A model that forgets at <|endoftext|> finds a document as probable behind others as alone.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from golden import load
from model import Nano
from train import END_OF_TEXT

BEHIND = 4


def split_documents(tokens: np.ndarray) -> list[list[int]]:
    """The documents, each between the end-of-text token before it and its own."""
    ends = np.flatnonzero(tokens == END_OF_TEXT)
    return [tokens[start : end + 1].tolist() for start, end in zip(ends, ends[1:])]


@torch.no_grad()
def losses(model: Nano, ids: list[int]) -> torch.Tensor:
    """The cross entropy of each token but the first."""
    logits, _ = model(torch.tensor([ids[:-1]]))
    return F.cross_entropy(logits[0], torch.tensor(ids[1:]), reduction="none")


def mean_loss(model: Nano, documents: list[list[int]]) -> float:
    """Mean cross entropy of each document's tokens, read by itself."""
    return float(torch.cat([losses(model, ids[1:]) for ids in documents]).mean())


def mean_loss_behind(model: Nano, documents: list[list[int]]) -> float:
    """The same where others stand before each: only the last of every group counts."""
    told = []
    for end in range(BEHIND, len(documents), BEHIND + 1):
        group = documents[end - BEHIND : end + 1]
        packed = [token for ids in group for token in ids[1:]]
        told.append(losses(model, packed)[-(len(group[-1]) - 2) :])
    return float(torch.cat(told).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=150_000)
    args = parser.parse_args()
    model = load(args.model)
    for split in ("train", "heldout"):
        tokens = np.fromfile(args.data / f"{split}.bin", dtype="<u2", count=args.tokens)
        documents = split_documents(tokens)
        fifths = documents[BEHIND :: BEHIND + 1]
        alone, behind = mean_loss(model, fifths), mean_loss_behind(model, documents)
        print(f"{split}, {len(fifths)} documents: {alone:.4f} alone, {behind:.4f} behind {BEHIND} others")


if __name__ == "__main__":
    main()
