"""Fuzzes each target for so long, with seeds out of the tests, and says how far it came: executions, and edges of the
program that were reached.

`python3 fuzz/run.py --seconds 180 [TARGET...]`; needs nightly Rust and `cargo install cargo-fuzz`. What is found comes to
fuzz/artifacts/TARGET, and `cargo +nightly fuzz run TARGET FILE` repeats it.
"""

import argparse
import json
import os
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
CHECKPOINT = ROOT / "target/tiny"
MOST_SECONDS_EACH = 25
MOST_MIB = 4096

# What libFuzzer tells: executions, the occasion, edges, and inputs that it keeps.
STEP = re.compile(r"#(\d+)\s+([A-Za-z-]+)\s+cov: (\d+) ft: \d+ corp: (\d+)")

REQUESTS = [
    (0, {"prompt": "Once", "max_tokens": 2, "logprobs": 2, "echo": True, "n": 2, "best_of": 2, "stop": ["a", "b"]}),
    (0, {"prompt": [[1, 2], [3]], "stream": True, "stream_options": {"include_usage": True},
         "logit_bias": {"5": -100}}),
    (0, {"prompt": ["a", "b"], "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "seed": 3,
         "frequency_penalty": 0.5, "presence_penalty": -1, "repetition_penalty": 1.1}),  # fmt: skip
    (1, {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [
        {"type": "text", "text": "Hi"}]}], "logprobs": True, "top_logprobs": 3, "max_completion_tokens": 2}),
    (1, {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "2"}], "stream": True, "response_format": {"type": "text"}}),
    (2, {"content": "Once upon a time <|endoftext|>", "add_special": True, "with_pieces": True}),
    (2, {"messages": [{"role": "user", "content": "Hi"}], "prompt": "a"}),
    (3, {"tokens": [1, 2, 3]}),
]  # fmt: skip


def header(weights: bytes) -> bytes:
    (length,) = struct.unpack_from("<Q", weights)
    return weights[8 : 8 + length]


def headers() -> Iterator[bytes]:
    for path in [CHECKPOINT / "model.safetensors", *TESTS.glob("golden/*/*.safetensors"),
                 *TESTS.glob("families/*/*.safetensors")]:  # fmt: skip
        yield header(path.read_bytes())


def configs() -> Iterator[bytes]:
    for path in [CHECKPOINT / "config.json", *TESTS.glob("golden/*/config.json"), *TESTS.glob("families/*/config.json")]:
        yield path.read_bytes()


def ggufs() -> Iterator[bytes]:
    for path in TESTS.glob("gguf/**/*.gguf"):
        yield path.read_bytes()


def tokenizers() -> Iterator[bytes]:
    yield (CHECKPOINT / "tokenizer.json").read_bytes()
    for tokenizer in json.loads((TESTS / "tokenizers/cases.json").read_text())["tokenizers"].values():
        yield json.dumps(tokenizer).encode()


def templates() -> Iterator[bytes]:
    conversations = json.loads((TESTS / "chat/golden.json").read_text())["conversations"].values()
    for path in TESTS.glob("chat/templates/*.jinja"):
        for conversation in conversations:
            yield path.read_bytes() + b"\0" + json.dumps(conversation).encode()


def requests() -> Iterator[bytes]:
    for route, body in REQUESTS:
        yield bytes([route]) + json.dumps(body).encode()


TARGETS = {
    "header": headers,
    "config": configs,
    "gguf": ggufs,
    "tokenizer": tokenizers,
    "template": templates,
    "request": requests,
}


def seed(target: str) -> Path:
    corpus = ROOT / "fuzz/corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(TARGETS[target]()):
        (corpus / f"seed-{number}").write_bytes(content)
    return corpus


def fuzz(target: str, seconds: int) -> bool:
    flags = [f"-max_total_time={seconds}", f"-timeout={MOST_SECONDS_EACH}", f"-rss_limit_mb={MOST_MIB}"]
    log = ROOT / "fuzz/corpus" / f"{target}.log"
    command = ["cargo", "+nightly", "fuzz", "run", target, str(seed(target)), "--", *flags]
    with open(log, "wb") as writing:
        ended = subprocess.run(command, cwd=ROOT, stdout=writing, stderr=writing,
                               env=os.environ | {"BLAZR_FUZZ_CHECKPOINT": str(CHECKPOINT)})  # fmt: skip
    steps = STEP.findall(log.read_text(errors="replace"))
    of_seeds = next((edges for _, what, edges, _ in steps if what == "INITED"), "0")
    executions, _, edges, inputs = steps[-1] if steps else ("0", "", "0", "0")
    has_held = ended.returncode == 0 and int(executions) > 0
    how = "ok" if has_held else f"FAILED, see {log}"
    print(f"{target}: {executions} executions, {of_seeds} edges by the seeds, {edges} in the end, {inputs} inputs: {how}",
          flush=True)  # fmt: skip
    return has_held


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help="all of them where none is named")
    parser.add_argument("--seconds", type=int, default=180, help="for each target")
    options = parser.parse_args()
    subprocess.run(["cargo", "run", "--locked", "--quiet", "--example", "tiny", "--", CHECKPOINT], cwd=ROOT, check=True)
    held = [fuzz(target, options.seconds) for target in options.targets]
    print(f"{sum(held)} passed, {len(held) - sum(held)} failed")
    raise SystemExit(not all(held))


if __name__ == "__main__":
    main()
