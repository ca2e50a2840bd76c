"""Writes a training checkpoint's weights as bf16 model.safetensors, with the tokenizer that they were trained with.

    python export.py --checkpoint FILE --data DIR --out DIR
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file


def export(checkpoint: Path, out: Path) -> None:
    """The bytes depend on the weights alone: tensors are laid out in the order of their names."""
    weights = torch.load(checkpoint, weights_only=True)["model"]
    weights = {name: weights[name].to(torch.bfloat16).contiguous() for name in sorted(weights)}
    save_file(weights, out / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of tokenizer.json")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    export(args.checkpoint, args.out)
    shutil.copyfile(args.data / "tokenizer.json", args.out / "tokenizer.json")


if __name__ == "__main__":
    main()
