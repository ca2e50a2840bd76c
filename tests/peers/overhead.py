"""Where the time of a decoded token goes: kernels, and what is not them.

Records `blazr bench` with perf (Debian's linux-perf), and tells for the thread that has the loop what share of its samples
lies in kernels, in handing work over to other threads and waiting for them, in dispatch (from the layers to the kernels),
in allocation, and in moving and clearing memory outside of kernels. A sample belongs to the innermost line of blazr that it
is in, inlined ones too, which takes a program with debug information and `addr2line` (binutils).

A sample halts its thread for some microseconds, and the others wait for it: what perf itself takes shows as hand-over. So
there are few samples a second, and many tokens. A host that gives a virtual CPU's time to others halts its thread for longer,
and that shows as hand-over too: how much of the time in which CPUs were wanted it took is told (steal in /proc/stat, loading
included). Runs of different --decode have caches of different lengths, and can't be compared.

    python3 tests/peers/overhead.py target/release/blazr --model MODEL --dtype q8_0
"""

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

KERNELS, HANDOVER, DISPATCH, ALLOCATION, MEMORY, OTHER = KINDS = (
    "kernels", "hand-over", "dispatch", "allocation", "memory", "other",
)
# Not that of the kernel's own clock.
FREQUENCY = 249
SAMPLE = re.compile(r"\s*(?P<thread>\S+)\s+(?P<address>[0-9a-f]+)\s+(?P<symbol>.*) \((?P<file>.*)\)$")
OWN_LINE = re.compile(r"/src/(?P<part>cli|engine|kernels|model|sampling)/(?P<file>[^:]*):")


class Frame(NamedTuple):
    """A function, perhaps inlined, and its line."""

    function: str
    line: str


def arguments() -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("blazr", type=Path)
    parser.add_argument("--decode", type=int, default=1500)
    parser.add_argument("--after", type=float, default=4.0, help="seconds for loading and the first bandwidth")
    parser.add_argument("--show", type=int, default=0, help="so many functions outside of kernels")
    return parser.parse_known_args()


def output(*command: object, **how: object) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, **how).stdout


def record(args: argparse.Namespace, of_bench: list[str], samples: Path) -> str:
    delay = ["-D", int(args.after * 1000)]
    bench = [args.blazr, "bench", "--prefill", 1, "--decode", args.decode, "--at", 0, "--runs", 1, *of_bench]
    return output("perf", "record", "-q", *delay, "-e", "cpu-clock", "-F", FREQUENCY, "-o", samples, *bench)


def cpu_times() -> tuple[int, int]:
    """What the host gave to others, and all in which there was work."""
    user, nice, system, _idle, _io, irq, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return steal, user + nice + system + irq + soft + steal


def start_of_code(blazr: Path, samples: Path) -> int:
    """What is to be taken from an address in the process to find it in the file."""
    mapped = output("perf", "script", "-i", samples, "--show-mmap-events")
    found = re.search(rf"\[0x([0-9a-f]+)\(0x[0-9a-f]+\) @ (0x[0-9a-f]+|0) [^\]]*\]: r-xp \S*/{blazr.name}\n", mapped)
    if not found:
        sys.exit(f"no code of {blazr} was mapped while perf recorded")
    code = next(line.split() for line in output("readelf", "-lW", blazr).splitlines() if "LOAD" in line and "R E" in line)
    return int(found[1], 16) - int(found[2], 16) - (int(code[2], 16) - int(code[1], 16))


def frames(blazr: Path, addresses: list[int]) -> dict[int, list[Frame]]:
    """The functions that an address lies in, the innermost first."""
    told = output("addr2line", "-a", "-i", "-f", "-C", "-e", blazr, input="\n".join(map(hex, addresses))).splitlines()
    found: dict[int, list[Frame]] = {}
    at = 0
    while at < len(told):
        if re.fullmatch(r"0x[0-9a-f]+", told[at]):
            own = found.setdefault(int(told[at], 16), [])
            at += 1
        else:
            own.append(Frame(told[at], told[at + 1]))
            at += 2
    return found


def kind(symbol: str, chain: list[Frame]) -> str | None:
    """None: a sample that is not of decoding."""
    if any("/library/alloc/src/alloc.rs" in frame.line for frame in chain) or re.match(r"_?mi_", symbol):
        return ALLOCATION
    for frame in chain:
        if "pool::rows::Fresh" in frame.function and frame.function.endswith("part"):
            return MEMORY
        if own := OWN_LINE.search(frame.line):
            if own["part"] == "cli" and own["file"].startswith("bench/memory"):
                return None
            if own["part"] != "kernels":
                return DISPATCH
            return HANDOVER if own["file"].startswith("pool") else KERNELS
    if "candle" in symbol or "alloc::" in symbol or "core::" in symbol:
        return DISPATCH
    if "memset" in symbol or "memmove" in symbol or "memcpy" in symbol or "clear_page" in symbol:
        return MEMORY
    if "sched_yield" in symbol:
        return HANDOVER
    return KERNELS if re.match(r"_*(exp|log1p)f?(_|$)", symbol) else OTHER


def main() -> None:
    args, of_bench = arguments()
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "perf.data"
        (stolen_before, before), recorded, (stolen, now) = cpu_times(), record(args, of_bench, samples), cpu_times()
        steal = 100 * (stolen - stolen_before) / (now - before)
        decoded = next((line for line in recorded.splitlines() if line.startswith("decode")), None)
        print(decoded or sys.exit("nothing was decoded: is --decode within the model's context?"), f"(steal {steal:.1f} %)")
        start = start_of_code(args.blazr, samples)
        found: list[tuple[int | None, str]] = []
        for line in output("perf", "script", "-i", samples, "-F", "comm,ip,sym,dso").splitlines():
            sample = SAMPLE.match(line)
            if sample and sample["thread"] == args.blazr.name[:15]:
                is_own = Path(sample["file"]).name == args.blazr.name
                address = int(sample["address"], 16) - start if is_own else None
                found.append((address, sample["symbol"]))
    chains = frames(args.blazr, sorted({address for address, _ in found if address is not None}))
    kinds = [kind(symbol, chains.get(address, [])) for address, symbol in found]
    counts = Counter(own for own in kinds if own)
    print(", ".join(f"{own} {100 * counts[own] / counts.total():.1f} %" for own in KINDS), f"of {counts.total()} samples")
    functions = Counter((own, symbol) for own, (_, symbol) in zip(kinds, found) if own not in (None, KERNELS))
    for (own, symbol), count in functions.most_common(args.show):
        print(f"  {100 * count / counts.total():5.2f} % {own:10} {symbol[:100]}")


if __name__ == "__main__":
    main()
