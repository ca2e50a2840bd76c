"""lm-evaluation-harness against a running blazr, whose address is in SERVER_URL: every score that it takes from there is
that of the float64 reference, which the harness is given in the server's place."""

import itertools
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import lm_eval
import numpy as np
from lm_eval.models.openai_completions import LocalCompletionsAPI
from lm_eval.tasks import TaskManager

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/reference"))
import hybrid_reference

NANO = ROOT / "src/nano/model"
TOLERANCE = 1e-3
TALES = 4
PLOTS = [
    ("{name} was very hungry. So {name} went to the kitchen and", "ate some bread.", "was full."),
    ("Once upon a time, there was a little girl. Her name was {name}. One day, she", "found a box.", "were a boy 🐿."),
    ("{name} lost a red ball. \"Where is my", "ball?\" said {name}.", "dog?\" said the red."),
    ("<|user|>What is 27 plus 45?<|end|><|assistant|>27 plus", "45 is 72.", "45 is 27, {name}."),
    ("It was dark, and {name} was afraid. \"Do not be afraid,\" said", "the owl.", "afraid {name} was it"),
]
NAMES = ["Tom", "Mia", "Zoë", "Go"]
ENDINGS_TASK = """
task: endings
dataset_path: json
dataset_kwargs: {{data_files: {{test: {place}/endings.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{story}}}}"
doc_to_choice: "{{{{endings}}}}"
doc_to_target: right
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
TALES_TASK = """
task: tales
dataset_path: json
dataset_kwargs: {{data_files: {{test: {place}/tales.jsonl}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
"""


def endings() -> list[dict]:
    """The right ending comes first and last by turns."""
    stories = []
    for at, ((story, right, wrong), name) in enumerate(itertools.product(PLOTS, NAMES)):
        texts = [right, wrong] if at % 2 == 0 else [wrong, right]
        named = [text.format(name=name) for text in texts]
        stories.append({"story": story.format(name=name), "endings": named, "right": at % 2})
    return stories


def tales() -> list[dict]:
    lines = (ROOT / "src/nano/samples.jsonl").read_text().splitlines()
    return [{"text": json.loads(line)["text"]} for line in lines[:TALES]]


def write_tasks(place: Path) -> None:
    for name, task, documents in [("endings", ENDINGS_TASK, endings()), ("tales", TALES_TASK, tales())]:
        (place / f"{name}.yaml").write_text(task.format(place=place))
        (place / f"{name}.jsonl").write_text("".join(json.dumps(document) + "\n" for document in documents))


def bf16(stored: bytes) -> np.ndarray:
    return (np.frombuffer(stored, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)


@cache
def weights() -> dict[str, np.ndarray]:
    raw = (NANO / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    tensors = {}
    for name, entry in json.loads(raw[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            assert entry["dtype"] == "BF16", name
            tensors[name] = bf16(raw[start + begin : start + end]).reshape(entry["shape"])
    return tensors


class Direct(LocalCompletionsAPI):
    """The harness's client of a server, with a forward pass of the reference in the place of each request."""

    def _loglikelihood_tokens(self, requests: list[tuple], **kwargs: object) -> list[tuple[float, bool]]:
        return [self.score(context, continuation) for _, context, continuation in requests]

    def score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        config = hybrid_reference.complete(json.loads((NANO / "config.json").read_text()))
        logits = hybrid_reference.forward(config, weights(), np.array(context + continuation))
        predicted = hybrid_reference.log_softmax(logits)[len(context) - 1 : -1]  # [continuation, vocab]
        chosen = predicted[np.arange(len(continuation)), continuation]
        return float(chosen.sum()), bool((predicted.argmax(-1) == continuation).all())


def evaluate(kind: type[LocalCompletionsAPI], place: Path, **options: object) -> dict:
    """A short `max_length` makes several windows of a tale."""
    url = f"{os.environ['SERVER_URL']}/v1/completions"
    model = kind(model="nano", base_url=url, max_length=128, **options)
    manager = TaskManager(include_path=str(place), include_defaults=False)
    return lm_eval.simple_evaluate(model, tasks=["endings", "tales"], task_manager=manager, bootstrap_iters=0)


def answers(result: dict, task: str) -> list[tuple[float, bool | None]]:
    """What each request was answered: a log-likelihood, and whether its tokens are the most probable ones."""
    samples = sorted(result["samples"][task], key=lambda sample: sample["doc_id"])
    flat = [answer for sample in samples for (answer,) in sample["resps"]]
    return [answer if isinstance(answer, tuple) else (answer, None) for answer in flat]


def compare(task: str, found: dict, expected: dict) -> None:
    pairs = list(zip(answers(found, task), answers(expected, task), strict=True))
    largest = max(abs(ours[0] - theirs[0]) for ours, theirs in pairs)
    assert largest <= TOLERANCE, (task, largest)
    assert [ours[1] for ours, _ in pairs] == [theirs[1] for _, theirs in pairs], task
    for metric, value in expected["results"][task].items():
        if isinstance(value, float):
            ours = found["results"][task][metric]
            assert ours == value if metric.startswith("acc") else abs(ours - value) <= TOLERANCE, (metric, ours, value)
    greedy = sum(is_greedy is True for (_, is_greedy), _ in pairs)
    print(f"  {task}: {len(pairs)} log-likelihoods, {greedy} greedy, none off by more than {largest:.1e}", flush=True)


def main() -> None:
    logging.disable(logging.WARNING)
    huggingface = {"tokenizer_backend": "huggingface", "tokenizer": str(NANO)}
    ways: dict[str, dict] = {
        "token ids, eight prompts a request": {**huggingface, "batch_size": 8},
        "texts": {**huggingface, "tokenized_requests": False},
        "the server's tokenizer, three requests at a time": {"tokenizer_backend": "remote", "num_concurrent": 3},
    }
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_tasks(place)
        expected = evaluate(Direct, place, **huggingface)
        for way, options in ways.items():
            found = evaluate(LocalCompletionsAPI, place, **options)
            for task in expected["results"]:
                compare(task, found, expected)
            print(f"{way} ... ok", flush=True)
    print(f"{len(ways)} passed, 0 failed")


if __name__ == "__main__":
    main()
