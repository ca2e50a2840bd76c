"""Measures a trained model through blazr itself: samples at temperature 0.7 for prompts that training never saw.

    python evaluate.py --blazr target/release/blazr [--model DIR] --samples FILE [--count 100]

Each task is measured twice: as blazr samples where only the temperature is given (top-p 0.9, top-k 40), and with
`--top-p 1 --top-k 0`, which leaves the temperature alone.

FILE gets one JSON object a line: the task, the sampling flags, the prompt, the seed, the text that blazr gave, and
whether it was right. `blazr generate SAMPLING --threads 1 --max-tokens 500 --seed SEED --prompt PROMPT` gives it again.
"""

import argparse
import json
import re
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import documents as doc
import people
import sums
import talk
from grammar import could_be_told
from stories import SIZES, Question, tell
from templates import expand, with_article
from words import HELD_OUT, TRAITS

SAMPLINGS = ["--temperature 0.7", "--temperature 0.7 --top-p 1 --top-k 0"]
MAX_TOKENS = 500
AT_ONCE = 2  # each on one thread
NEW_WORD = re.compile(r"\{(food|a_animal|a_noun|other)\}")


@dataclass(frozen=True)
class Answer:
    """What blazr said."""

    text: str
    ended: bool


Check = Callable[[Answer], bool]
Task = Callable[[Random], tuple[str, Check]]


# --------------------------------------------------------------------------- what is asked


def prompt(turns: doc.Turns, asked: str, system: str | None = None) -> str:
    """A conversation up to the point where the assistant speaks."""
    return f"{doc.chat(turns, system)}{doc.USER}{asked}{doc.END}{doc.ASSISTANT}"


def plain_story(rng: Random) -> tuple[str, Check]:
    """The beginning of a story about somebody new."""
    hero = tell(rng, HELD_OUT).hero
    described = with_article(f"{rng.choice(SIZES + TRAITS)} {hero.kind}")
    start = f"Once upon a time, there was {described} named {hero.name}."
    return start, lambda answer: is_story(answer, start + answer.text, hero=hero.name, kind=hero.kind)


def story_on_request(rng: Random) -> tuple[str, Check]:
    """A story about somebody new, asked for in a chat."""
    hero = tell(rng, HELD_OUT).hero
    topic = f"{with_article(hero.kind)} named {hero.name}"
    asked = expand(rng, rng.choice(doc.ASKED_ABOUT), {"topic": topic})
    return prompt([], asked), lambda answer: is_story(answer, answer.text, hero=hero.name, kind=hero.kind)


def free_story(_: Random) -> tuple[str, Check]:
    """The newcomer's first prompt."""
    start = "Once upon a time"
    return start, lambda answer: is_story(answer, start + answer.text)


def story(rng: Random) -> tuple[str, Check]:
    return rng.choice([plain_story, story_on_request, story_on_request])(rng)


def is_story(answer: Answer, text: str, **wanted: str) -> bool:
    return answer.ended and not has_loop(text) and could_be_told(text, **wanted)


def has_loop(text: str) -> bool:
    """Whether a sentence is there twice; `Mia asked.` may be."""
    sentences = [sentence for sentence in re.split(r'(?<=[.!?])"?\s+', text) if len(sentence.split()) > 2]
    return len(set(sentences)) < len(sentences)


def story_question(rng: Random) -> tuple[str, Check]:
    """A question about a story that was just told."""
    told = tell(rng, HELD_OUT)
    question = told.questions[0]
    return prompt([(doc.request(rng, told), told.text)], question.text), right_answer(question)


def right_answer(question: Question) -> Check:
    return lambda answer: answer.ended and answer.text in question.right


def calculation(kind: Callable, digits: int | None = None) -> Task:
    """A calculation with a pair of numbers that training never saw, both with so many digits."""

    def task(rng: Random) -> tuple[str, Check]:
        asked, right = kind(rng, HELD_OUT)
        while digits and any(len(number) != digits for number in re.findall(r"\d+", asked)):
            asked, right = kind(rng, HELD_OUT)
        return prompt([], asked), lambda answer: answer.ended and answer.text == right

    return task


def people_question(rng: Random) -> tuple[str, Check]:
    """A question about one of several people of whom the user tells."""
    told, [(asked, right), *_] = people.described(rng, HELD_OUT)
    return prompt([], f"{told} {asked}"), lambda answer: answer.ended and answer.text == right


def recall(rng: Random) -> tuple[str, Check]:
    """Somebody's name, given and asked for."""
    slots = talk.slots(rng, HELD_OUT)
    turns = [(expand(rng, talk.NAMED.said, slots), expand(rng, talk.NAMED.answer, slots))]
    right = f"Your name is {slots['name']}."
    asked = prompt(turns, expand(rng, talk.RECALLED.said, slots))
    return asked, lambda answer: answer.ended and answer.text.startswith(right)


def under(systems: list[str] | None, is_followed: Callable[[str], bool]) -> Task:
    """Something with a held-out word that is mostly answered at length, under a system prompt."""

    def task(rng: Random) -> tuple[str, Check]:
        system = expand(rng, rng.choice(systems), {}) if systems else None
        return prompt([], asked_at_length(rng), system), lambda answer: answer.ended and is_followed(answer.text)

    return task


def asked_at_length(rng: Random) -> str:
    """A story about somebody new, or small talk about something new."""
    if rng.random() < 0.5:
        return expand(rng, rng.choice(doc.ASKED_ABOUT), {"topic": doc.topic(rng, tell(rng, HELD_OUT))})
    about_something = [exchange for exchange in talk.EXCHANGES if exchange.more and NEW_WORD.search(exchange.said)]
    return expand(rng, rng.choice([talk.NAMED, *about_something]).said, talk.slots(rng, HELD_OUT))


def is_one_sentence(text: str) -> bool:
    """Whether there is one full stop or mark, at the end."""
    return len(text.split()) > 1 and re.fullmatch(r"[^.!?]+[.!?]", text) is not None


def is_in_capitals(text: str) -> bool:
    return len(re.findall(r"[A-Z]+", text)) > 1 and text == text.upper() and text[-1] in ".!?"


TASKS: dict[str, Task] = {
    "stories about somebody new": story,
    "stories from nothing": free_story,
    "sums of one-digit numbers": calculation(sums.addition, 1),
    "sums of two-digit numbers": calculation(sums.addition, 2),
    "differences": calculation(sums.subtraction),
    "comparisons": calculation(sums.comparison),
    "sums in a sentence": calculation(sums.told),
    "questions about the story": story_question,
    "questions about several people": people_question,
    "names in small talk": recall,
    "one sentence": under(doc.ONE_SENTENCE, is_one_sentence),
    "one sentence, new wording": under(doc.HELD_OUT_ONE_SENTENCE, is_one_sentence),
    "one sentence, without being told": under(None, is_one_sentence),
    "capital letters": under(doc.CAPITALS, is_in_capitals),
    "capital letters, new wording": under(doc.HELD_OUT_CAPITALS, is_in_capitals),
}


# --------------------------------------------------------------------------- asking blazr


def ask(command: list[str], sampling: str, asked: str, seed: int) -> Answer:
    flags = ["--json", "--threads", "1", *sampling.split(), "--seed", str(seed), "--max-tokens", str(MAX_TOKENS)]
    run = subprocess.run([*command, *flags, "--prompt", asked], capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(run.stderr)
    answer = json.loads(run.stdout)
    return Answer(answer["text"], answer["finish_reason"] == "stop")


def sample(command: list[str], name: str, sampling: str, seed: int) -> dict:
    asked, is_right = TASKS[name](Random(f"{name} {seed}"))
    answer = ask(command, sampling, asked, seed)
    judged = {"task": name, "sampling": sampling, "seed": seed, "right": is_right(answer)}
    return {**judged, "prompt": asked, **asdict(answer)}


def samples(command: list[str], name: str, sampling: str, count: int) -> list[dict]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda seed: sample(command, name, sampling, seed), range(count)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blazr", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a checkpoint, instead of the embedded model")
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--task", choices=TASKS, action="append", help="only these")
    args = parser.parse_args()
    command = [str(args.blazr), "generate", *(["--model", str(args.model)] if args.model else [])]
    with args.samples.open("w") as file:
        for name in args.task or TASKS:
            cells = []
            for sampling in SAMPLINGS:
                rows = samples(command, name, sampling, args.count)
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
                cells.append(f"{sum(row['right'] for row in rows)} of {len(rows)}")
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
