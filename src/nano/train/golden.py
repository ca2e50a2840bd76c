"""Records what PyTorch says with the exported weights, for blazr to be held against.

    python golden.py --model DIR --out FILE [--seed 1]

FILE is a list of cases in the layout of the other golden files: token ids of a prompt, the log-probability of each of
its tokens given those before it, all log-probabilities behind the last, and the greedy continuation. The arithmetic is
float32 on the bf16 weights.
"""

import argparse
import json
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

import documents as doc
from model import Nano, load_config
from words import HELD_OUT

N_DOCUMENTS = 3
N_RANDOM = (5, 70, 300)
N_GREEDY = 24


def load(folder: Path) -> Nano:
    """The model in float32, from bf16 weights."""
    model = Nano(load_config(folder / "config.json"))
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return model.eval()


def prompts(tokenizer: Tokenizer, vocab_size: int, seed: int) -> list[list[int]]:
    """The first words of a story, held-out documents without their ends, and random tokens."""
    rng = Random(f"golden {seed}")
    texts = ["Once upon a time", *(doc.document(rng, HELD_OUT) for _ in range(N_DOCUMENTS))]
    written = [tokenizer.encode(text).ids for text in texts]
    drawn = [[rng.randrange(vocab_size) for _ in range(length)] for length in N_RANDOM]
    return [ids[: len(ids) * 3 // 4 + 1] for ids in written] + drawn


@torch.no_grad()
def log_probabilities(model: Nano, ids: list[int]) -> torch.Tensor:
    """[T, vocab]."""
    logits, _ = model(torch.tensor([ids]))
    return logits[0].double().log_softmax(-1)


def case(model: Nano, ids: list[int]) -> dict:
    logp = log_probabilities(model, ids)
    greedy: list[int] = []
    for _ in range(N_GREEDY):
        greedy.append(int(log_probabilities(model, ids + greedy)[-1].argmax()))
    told = [round(float(logp[at, token]), 6) for at, token in enumerate(ids[1:])]
    return {"prompt": ids, "token_logprobs": [None, *told],
            "last_logprobs": [round(value, 6) for value in logp[-1].tolist()], "greedy": greedy}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    model, tokenizer = load(args.model), Tokenizer.from_file(str(args.model / "tokenizer.json"))
    ids = prompts(tokenizer, model.cfg["vocab_size"], args.seed)
    args.out.write_text(json.dumps([case(model, prompt) for prompt in ids]) + "\n")


if __name__ == "__main__":
    main()
