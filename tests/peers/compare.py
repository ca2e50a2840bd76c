#!/usr/bin/env python3
"""blazr beside llama.cpp and transformers, those that are given, on the same random weights and as many threads.

    compare.py --blazr BLAZR --models DIR [--llama-bench LLAMA_BENCH --gguf DIR] [--python PYTHON] [--device cpu]
               [--prefill 512] [--rounds 5] [--threads 2] [--only MODEL:TYPE,...] [--raw FILE]

DIR has what `make_model.py` wrote, and what `to_gguf.py` and `llama-quantize` made of it; what is missing is told with
the command that makes it. PYTHON is one with torch and transformers. In every round each program is started anew, one
after the other and in turns first, so that a machine that gets slower does so for all; ratios are of runs side by side.
Timed are a prompt and 64 tokens decoded from an empty context. Prints a table in Markdown. On a GPU:

    compare.py --blazr BLAZR --models DIR --python PYTHON --device cuda:0 --prefill 4096 \
               --only granite-h-1b:bf16,mamba2-370m:bf16
"""

import argparse
import json
import shlex
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import median
from typing import NamedTuple

DECODE = 64

MODELS = ("granite-h-350m", "mamba2-370m", "llama-350m")

# What blazr calls a type of weights, and how the file of llama.cpp's counterpart ends.
TYPES = {"bf16": "bf16", "q8_0": "q8_0", "q4_k": "q4_k_m"}

BLAZR, LLAMA, TRANSFORMERS = "blazr", "llama.cpp", "transformers"

# How many times as fast as llama.cpp blazr must be, in decode and in prefill: hybrid models are what it is made for.
HYBRID = {"bf16": (1.2, 1.2), "q8_0": (1.4, 1.6), "q4_k": (1.5, 1.4)}
DENSE = {"bf16": (1.0, 1.1), "q8_0": (1.0, 1.1), "q4_k": (1.0, 1.1)}
REQUIRED = {"granite-h-350m": HYBRID, "mamba2-370m": HYBRID, "llama-350m": DENSE}

HERE = Path(__file__).parent


class Pair(NamedTuple):
    """A model and the type of its weights."""

    model: str
    kind: str


@dataclass(frozen=True)
class Speed:
    """One run of a program, in tokens per second."""

    prefill: float
    decode: float
    version: str
    share_of_floor: float | None = None


Runs = dict[Pair, dict[str, list[Speed]]]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blazr", required=True)
    parser.add_argument("--models", required=True, type=Path)
    parser.add_argument("--llama-bench")
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--python")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", type=pairs, default=[Pair(*pair) for pair in product(MODELS, TYPES)])
    parser.add_argument("--raw", type=Path)
    args = parser.parse_args()
    if (args.llama_bench is None) != (args.gguf is None):
        parser.error("--llama-bench and --gguf belong together")
    if not args.llama_bench and not args.python:
        parser.error("expected a peer: --llama-bench with --gguf, or --python")
    return args


def pairs(text: str) -> list[Pair]:
    """What `--only` names."""
    found = [Pair(*name.split(":")) for name in text.split(",") if name.count(":") == 1]
    if len(found) != text.count(",") + 1 or any(pair.kind not in TYPES for pair in found):
        raise argparse.ArgumentTypeError(f"expected MODEL:TYPE,... with the types {', '.join(TYPES)}, found {text}")
    return found


def gguf(args: argparse.Namespace, pair: Pair, ending: str | None = None) -> Path:
    return args.gguf / f"{pair.model}-{ending or TYPES[pair.kind]}.gguf"


def missing(args: argparse.Namespace) -> Iterator[str]:
    """The commands that make what is not there."""
    for model in dict.fromkeys(pair.model for pair in args.only):
        if not (args.models / model / "config.json").exists():
            yield f"python {HERE}/make_model.py {args.models / model} {model}"
    for pair in args.only if args.gguf else []:
        path, unquantized = gguf(args, pair), gguf(args, pair, "bf16")
        if path.exists():
            continue
        if not unquantized.exists():
            yield f"python {HERE}/to_gguf.py LLAMA_CPP_SOURCE {args.models / pair.model} {unquantized} bf16"
        if path != unquantized:
            yield f"llama-quantize {unquantized} {path} {TYPES[pair.kind].upper()}"


def output(command: list) -> str:
    """What a command prints, or the end of everything with what it complained of."""
    command = [str(part) for part in command]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"code {done.returncode}"
        sys.exit(f"{shlex.join(command)}\nended with {how}:\n{done.stderr[-2000:]}")
    return done.stdout or done.stderr


def run_blazr(args: argparse.Namespace, pair: Pair) -> Speed:
    flags = ["--runs", 1, "--prefill", args.prefill, "--decode", DECODE, "--at", 0, "--threads", args.threads]
    # On a GPU weights are as they are stored.
    dtype = ["--dtype", pair.kind] if args.device == "cpu" else []
    model = ["--model", args.models / pair.model, "--device", args.device, *dtype]
    report = json.loads(output([args.blazr, "bench", "--json", *flags, *model]))
    prefill, decode = report["prefill"][0], report["decode"][0]
    return Speed(
        prefill=prefill["tokens_per_second"]["median"],
        decode=decode["tokens_per_second"]["median"],
        version=output([args.blazr, "--version"]).strip(),
        share_of_floor=decode["share_of_floor"],
    )


def run_llama(args: argparse.Namespace, pair: Pair) -> Speed:
    flags = ["-o", "json", "-p", args.prefill, "-n", DECODE, "-t", args.threads, "-r", 1]
    tests = json.loads(output([args.llama_bench, "-m", gguf(args, pair), *flags]))
    speeds = {(test["n_prompt"], test["n_gen"]): test["avg_ts"] for test in tests}
    version = f"llama.cpp {tests[0]['build_commit']}"
    return Speed(prefill=speeds[args.prefill, 0], decode=speeds[0, DECODE], version=version)


def run_transformers(args: argparse.Namespace, pair: Pair) -> Speed:
    flags = ["--device", args.device, "--threads", args.threads, "--prefill", args.prefill, "--decode", DECODE]
    script = [args.python, HERE / "transformers_speed.py", args.models / pair.model]
    return Speed(**json.loads(output([*script, *flags])))


def programs(args: argparse.Namespace, pair: Pair) -> dict[str, Callable[[argparse.Namespace, Pair], Speed]]:
    """Those that can run this pair."""
    found = {BLAZR: run_blazr}
    if args.llama_bench:
        found[LLAMA] = run_llama
    if args.python and pair.kind == "bf16":
        found[TRANSFORMERS] = run_transformers
    return found


def measure(args: argparse.Namespace) -> Runs:
    runs: Runs = {pair: defaultdict(list) for pair in args.only}
    for turn in range(args.rounds):
        for pair in args.only:
            in_order = list(programs(args, pair).items())
            for name, run in in_order if turn % 2 == 0 else reversed(in_order):
                speed = run(args, pair)
                told = f"decode {speed.decode:.1f}, prefill {speed.prefill:.1f} tokens/s"
                print(f"round {turn + 1}: {pair.model} {pair.kind} {name}: {told}", file=sys.stderr)
                runs[pair][name].append(speed)
    return runs


def compared(ours: list[Speed], theirs: list[Speed], what: str, required: float | None) -> list[str]:
    """The cells about prefill or decode."""
    a, b = ([getattr(speed, what) for speed in speeds] for speeds in (ours, theirs))
    ratios = [x / y for x, y in zip(a, b, strict=True)]
    ratio = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    asked = "" if required is None else f"{required:.1f}: {'yes' if median(ratios) >= required else 'no'}"
    return [f"{median(a):.1f}", f"{median(b):.1f}", ratio, asked]


def rows(args: argparse.Namespace, runs: Runs) -> Iterator[list[str]]:
    yield ["model", "weights", "peer"] + [
        f"{what} {cell}" for what in ("decode", f"prefill {args.prefill}") for cell in ("blazr", "peer", "ratio", "required")
    ] + ["of the floor"]
    yield ["---"] * 12
    for pair, by_program in runs.items():
        ours = by_program[BLAZR]
        shares = [speed.share_of_floor for speed in ours if speed.share_of_floor is not None]
        floor = f"{100 * median(shares):.0f} %" if shares else ""
        for peer in (LLAMA, TRANSFORMERS):
            if theirs := by_program.get(peer):
                required = REQUIRED.get(pair.model, {}).get(pair.kind) if peer == LLAMA and args.prefill == 512 else None
                cells = [compared(ours, theirs, what, ratio) for what, ratio in zip(("decode", "prefill"), required or (None, None))]
                yield [pair.model, pair.kind, peer, *cells[0], *cells[1], floor]


def cpu() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def conditions(args: argparse.Namespace, runs: Runs) -> str:
    speeds = [speed for by_program in runs.values() for speeds in by_program.values() for speed in speeds]
    versions = ", ".join(dict.fromkeys(speed.version for speed in speeds))
    how = f"{args.rounds} rounds, median (smallest to largest); tokens per second; ratios of runs side by side"
    where = cpu() if args.device == "cpu" else f"{args.device}, {cpu()}"
    return f"{where}, {args.threads} threads; {versions}; {how}: `{shlex.join(['compare.py', *sys.argv[1:]])}`"


def main() -> None:
    args = arguments()
    if args.rounds < 1:
        sys.exit("--rounds: expected at least 1")
    if commands := list(dict.fromkeys(missing(args))):
        sys.exit("these files are missing; make them with\n" + "\n".join(f"  {command}" for command in commands))
    runs = measure(args)
    if args.raw:
        raw = [{**pair._asdict(), "program": name, "runs": [asdict(speed) for speed in speeds]}
               for pair, by_program in runs.items() for name, speeds in by_program.items()]  # fmt: skip
        args.raw.write_text(json.dumps(raw, indent=2))
    for row in rows(args, runs):
        print("|", " | ".join(row), "|")
    print(f"\n{conditions(args, runs)}")


if __name__ == "__main__":
    main()
