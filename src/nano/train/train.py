"""Trains nano on packed token streams, on a CPU, resumably.

    python train.py --data DIR --checkpoint FILE --log FILE --steps N

DIR/train.bin and DIR/heldout.bin hold uint16 little-endian token ids: documents one after the other, each
closed by token 0. Running the same command again goes on from the checkpoint; --steps may differ, the
schedule follows it.
"""

import argparse
import hashlib
import os
import signal
import time
from functools import cached_property
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from torch import Tensor

from model import Nano, load_config

END_OF_TEXT = 0
LENGTHS, LENGTH_ODDS = (256, 512, 1024, 2048), (0.1, 0.6, 0.22, 0.08)
HELDOUT_LENGTH, HELDOUT_ROWS = 1024, 64
WARMUP_STEPS, DECAY_SHARE = 100, 0.5
LOG_EVERY, SAVE_EVERY = 50, 200
LOG_HEAD = "step,tokens,train_loss,heldout_loss,lr,seconds"
WEIGHT_DECAY, CLIP = 0.05, 1.0

# --------------------------------------------------------------------------- data


class Rows:
    """Rows of tokens, each beginning at a document's start, in one walk after the other through a file."""

    def __init__(self, path: Path, position: int = 0):
        self.tokens = np.memmap(path, dtype="<u2", mode="r")
        ends = np.flatnonzero(self.tokens == END_OF_TEXT)
        self.starts = np.concatenate([[0], ends + 1])
        self.position = position

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.tokens).hexdigest()

    def row(self, size: int) -> np.ndarray:
        """The next `size` tokens that begin with a document."""
        start = self.start_after(self.position)
        if start + size > len(self.tokens):
            print(f"every document was read once: {len(self.tokens)} tokens, beginning again", flush=True)
            start = 0
        self.position = start + size
        return self.tokens[start : self.position]

    def start_after(self, position: int) -> int:
        index = np.searchsorted(self.starts, position)
        return int(self.starts[index]) if index < len(self.starts) else len(self.tokens)

    def batch(self, rows: int, length: int) -> Tensor:
        """[rows, length + 1] int64."""
        return torch.from_numpy(np.stack([self.row(length + 1) for _ in range(rows)]).astype(np.int64))


def step_length(seed: int, step: int) -> int:
    """The sequence length of a step, the same in every run of the same seed."""
    return int(np.random.default_rng((seed, step)).choice(LENGTHS, p=LENGTH_ODDS))


# --------------------------------------------------------------------------- optimisation


def is_muon(name: str, parameter: Tensor) -> bool:
    """Muon takes the layers' matrices; embedding, router, convolution, norms and scalars are AdamW's."""
    return parameter.dim() == 2 and name.startswith("layers.") and not name.endswith("router.gate.weight")


def make_optimizers(model: Nano, lr: float) -> list[torch.optim.Optimizer]:
    """Muon's update is scaled to AdamW's root mean square, so both share one learning rate."""
    named = list(model.named_parameters())
    matrices = [p for name, p in named if is_muon(name, p)]
    others = [p for name, p in named if not is_muon(name, p)]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
    ]


def learning_rate(peak: float, step: int, steps: int) -> float:
    """Linear warmup, constant, linear decay to 0 over the last part."""
    warmup = (step + 1) / WARMUP_STEPS
    decay = (steps - step) / max(1.0, DECAY_SHARE * steps)
    return peak * min(1.0, warmup, decay)


# --------------------------------------------------------------------------- the run

Loss = Callable[[Tensor], tuple[Tensor, Tensor]]


class Trainer:
    def __init__(self, args: argparse.Namespace):
        torch.manual_seed(args.seed)
        self.args = args
        self.model = Nano(load_config())
        self.optimizers = make_optimizers(self.model, args.lr)
        self.data = Rows(args.data / "train.bin")
        self.step, self.seconds = 0, 0.0
        if args.checkpoint.exists():
            self.restore(torch.load(args.checkpoint, weights_only=True))
        self.loss: Loss = torch.compile(self.model.loss, dynamic=False)
        self.heldout = Rows(args.data / "heldout.bin").batch(HELDOUT_ROWS, HELDOUT_LENGTH)

    def settings(self) -> dict[str, Any]:
        """What must not change when a run goes on."""
        args = self.args
        return dict(tokens=args.tokens, lr=args.lr, balance=args.balance, seed=args.seed, data=self.data.digest)

    def restore(self, saved: dict[str, Any]) -> None:
        if saved["settings"] != self.settings():
            raise SystemExit(f"{self.args.checkpoint} is of another run: {saved['settings']}, not {self.settings()}")
        self.model.load_state_dict(saved["model"])
        for optimizer, state in zip(self.optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        self.step, self.seconds = saved["step"], saved["seconds"]
        self.data.position = saved["position"]
        print(f"resumed at step {self.step}", flush=True)

    def begin_log(self) -> None:
        """Writes the head of the log, and forgets what stands behind the checkpoint: it will be logged again."""
        _, *lines = self.args.log.read_text().splitlines() if self.args.log.exists() else [LOG_HEAD]
        kept = [line for line in lines if int(line.split(",")[0]) <= self.step]
        self.args.log.write_text("\n".join([LOG_HEAD, *kept, ""]))

    def save(self) -> None:
        """Writes the checkpoint beside its place, then moves it there: it is never half written."""
        partial = self.args.checkpoint.with_suffix(".partial")
        torch.save(
            dict(
                model=self.model.state_dict(),
                optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
                step=self.step,
                seconds=self.seconds,
                position=self.data.position,
                settings=self.settings(),
            ),
            partial,
        )
        os.replace(partial, self.args.checkpoint)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return self.loss(ids)

    def train_step(self) -> float:
        """One update; returns its mean cross entropy."""
        length = step_length(self.args.seed, self.step)
        ids = self.data.batch(self.args.tokens // length, length)
        cross_entropy, balance = self.forward(ids)
        (cross_entropy + self.args.balance * balance).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.lr()
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        return cross_entropy.item()

    def lr(self) -> float:
        return learning_rate(self.args.lr, self.step, self.args.steps)

    def heldout_loss(self) -> float:
        """Mean cross entropy of the fixed held-out rows, through the training graph of their shape."""
        rows = max(1, self.args.tokens // HELDOUT_LENGTH)
        return float(np.mean([self.forward(ids)[0].item() for ids in self.heldout.split(rows)]))

    def log(self, losses: list[float], heldout: float | None) -> None:
        columns = [
            str(self.step),
            str(self.step * self.args.tokens),
            f"{np.mean(losses):.4f}",
            "" if heldout is None else f"{heldout:.4f}",
            f"{learning_rate(self.args.lr, self.step - 1, self.args.steps):.3e}",
            f"{self.seconds:.1f}",
        ]
        line = ",".join(columns)
        print(line, flush=True)
        with open(self.args.log, "a") as file:
            file.write(line + "\n")

    def run(self) -> None:
        """Trains to the last step or until asked to stop; either way the checkpoint is left up to date."""
        stop = StopRequest()
        self.begin_log()
        losses: list[float] = []
        while self.step < self.args.steps and not stop.asked:
            started = time.monotonic()
            losses.append(self.train_step())
            last = self.step == self.args.steps
            full = last or self.step % SAVE_EVERY == 0
            heldout = self.heldout_loss() if full else None
            self.seconds += time.monotonic() - started
            if full or self.step % LOG_EVERY == 0:
                self.log(losses, heldout)
                losses = []
            if full:
                self.save()
        self.save()


class StopRequest:
    """Turns SIGTERM and SIGINT into a flag that the loop looks at between steps."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self.ask)

    def ask(self, *_: object) -> None:
        self.asked = True


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of train.bin and heldout.bin")
    parser.add_argument("--checkpoint", type=Path, required=True, help="written, and resumed from where it exists")
    parser.add_argument("--log", type=Path, required=True, help=f"CSV: {LOG_HEAD}")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--tokens", type=int, default=8192, help="tokens a step")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--balance", type=float, default=0.01, help="weight of the load-balancing loss")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    Trainer(args).run()


if __name__ == "__main__":
    main()
