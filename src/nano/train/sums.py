"""Addition, subtraction and comparison of numbers below one hundred."""

from random import Random

from templates import expand
from words import Words

ASKED_SUM = ["what is {a} plus {b}?", "how much is {a} plus {b}?", "[add|please add] {a} and {b}.", "can you add {a} and {b}?",
             "what is the sum of {a} and {b}?"]  # fmt: skip
ASKED_DIFFERENCE = ["what is {a} minus {b}?", "how much is {a} minus {b}?", "take {b} away from {a}."]
ASKED_LARGER = ["[which|which number|what] is [bigger|larger|more], {x} or {y}?"]
ASKED_SMALLER = ["[which|which number|what] is [smaller|less], {x} or {y}?"]

ITEMS = "apples nuts coins shells eggs cards stones books flowers buttons".split()
HAS_MORE = ["{name} has {a} {items} and [gets|finds|buys] {b} more. how many {items} does {name} have[ now|]?"]
HAS_LESS = ["{name} has {a} {items} and [loses|gives away|sells] {b}. how many {items} does {name} have[ now| left|]?"]

Exchanged = tuple[str, str]


def pair(rng: Random, words: Words, operation: str) -> tuple[int, int]:
    """Two numbers that this split may calculate with: of one digit, of two, or one of each."""
    while True:
        digits = rng.choices([(1, 1), (1, 2), (2, 1), (2, 2)], [0.25, 0.2, 0.2, 0.35])[0]
        a, b = (rng.randrange(10) if n == 1 else rng.randrange(10, 100) for n in digits)
        if words.allows_sum(operation, a, b):
            return a, b


def addition(rng: Random, words: Words) -> Exchanged:
    a, b = pair(rng, words, "+")
    return spoken_or_written(rng, ASKED_SUM, "plus", "+", a, b, a + b)


def subtraction(rng: Random, words: Words) -> Exchanged:
    a, b = sorted(pair(rng, words, "-"), reverse=True)
    return spoken_or_written(rng, ASKED_DIFFERENCE, "minus", "-", a, b, a - b)


def spoken_or_written(rng: Random, asked: list[str], word: str, sign: str, a: int, b: int, result: int) -> Exchanged:
    if rng.random() < 0.45:
        return f"{a} {sign} {b}{rng.choice(['', ' =', ' = ?', '?'])}", f"{a} {sign} {b} = {result}"
    return expand(rng, rng.choice(asked), {"a": str(a), "b": str(b)}), f"{a} {word} {b} is {result}."


def comparison(rng: Random, words: Words) -> Exchanged:
    a, b = pair(rng, words, "<")
    while a == b:
        a, b = pair(rng, words, "<")
    numbers = {"x": str(a), "y": str(b)}
    if rng.random() < 0.5:
        return expand(rng, rng.choice(ASKED_LARGER), numbers), f"{max(a, b)} is bigger than {min(a, b)}."
    return expand(rng, rng.choice(ASKED_SMALLER), numbers), f"{min(a, b)} is smaller than {max(a, b)}."


def told(rng: Random, words: Words) -> Exchanged:
    """A sum in a sentence about somebody's things."""
    name = rng.choice(words.girls + words.boys)
    slots = {"name": name, "items": rng.choice(ITEMS)}
    while True:
        if rng.random() < 0.5:
            a, b = pair(rng, words, "+")
            template, result = rng.choice(HAS_MORE), a + b
        else:
            a, b = sorted(pair(rng, words, "-"), reverse=True)
            template, result = rng.choice(HAS_LESS), a - b
        if 1 not in (a, result):  # one thing would need another word
            break
    asked = expand(rng, template, {**slots, "a": str(a), "b": str(b)})
    return asked, f"{name} has {result} {slots['items']}."


def exchange(rng: Random, words: Words) -> Exchanged:
    """A question and its answer."""
    kind = rng.choices([addition, subtraction, comparison, told], [0.42, 0.23, 0.1, 0.25])[0]
    return kind(rng, words)
