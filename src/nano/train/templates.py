"""A small template language: `[a|b]` is one of several, `{slot}` is a value, and a sentence starts with a capital."""

import re
from functools import lru_cache
from random import Random

TOKEN = re.compile(r"[\[\]|]|\{\w+\}|[^\[\]|{]+")


@lru_cache(maxsize=None)
def parse(template: str) -> list:
    """The template as a sequence of literals, slots (in braces) and tuples of alternatives."""
    tokens = TOKEN.findall(template)
    sequence, rest = parse_sequence(tokens)
    if rest:
        raise ValueError(f"unbalanced brackets in {template!r}")
    return sequence


def parse_sequence(tokens: list[str]) -> tuple[list, list[str]]:
    """Reads until a `|` or `]` that belongs to an outer bracket."""
    sequence = []
    while tokens and tokens[0] not in "|]":
        token, tokens = tokens[0], tokens[1:]
        if token == "[":
            alternatives, tokens = parse_alternatives(tokens)
            sequence.append(alternatives)
        else:
            sequence.append(token)
    return sequence, tokens


def parse_alternatives(tokens: list[str]) -> tuple[tuple, list[str]]:
    """Reads the alternatives of a bracket and its end."""
    alternatives = []
    while True:
        sequence, tokens = parse_sequence(tokens)
        alternatives.append(sequence)
        closing, tokens = tokens[0], tokens[1:]
        if closing == "]":
            return tuple(alternatives), tokens


def fill(rng: Random, sequence: list, slots: dict[str, str]) -> str:
    parts = []
    for part in sequence:
        if isinstance(part, tuple):
            parts.append(fill(rng, rng.choice(part), slots))
        elif part[0] == "{":
            parts.append(slots[part[1:-1]])
        else:
            parts.append(part)
    return "".join(parts)


def all_texts(sequence: list, slots: dict[str, str]) -> list[str]:
    """Every text of a parsed template."""
    texts = [""]
    for part in sequence:
        if isinstance(part, tuple):
            tails = [text for alternative in part for text in all_texts(alternative, slots)]
        else:
            tails = [slots[part[1:-1]] if part[0] == "{" else part]
        texts = [text + tail for text in texts for tail in tails]
    return texts


def capitalized(text: str) -> str:
    """The text with a capital at the start of every sentence and where somebody begins to speak."""
    out, is_start, in_quotes, has_quoted = [], True, False, False
    for at, letter in enumerate(text):
        out.append(letter.upper() if is_start else letter)
        if letter == '"':
            in_quotes = not in_quotes
            is_start = is_start or (in_quotes and not has_quoted)
            has_quoted = in_quotes or not is_start
        elif letter in ".!?" and not speech_goes_on(text, at):
            is_start, has_quoted = True, in_quotes
        elif letter != " ":
            is_start = False
    return "".join(out)


def speech_goes_on(text: str, at: int) -> bool:
    """Whether the sentence of a quotation goes on behind it, as in `"Who?" he asked.`"""
    return text[at + 1 : at + 3] == '" ' and text[at + 3 : at + 4].islower()


def phrase(rng: Random, template: str, slots: dict[str, str]) -> str:
    """One text of a template, for the middle of a sentence."""
    return fill(rng, parse(template), slots)


def expand(rng: Random, template: str, slots: dict[str, str]) -> str:
    """One text of a template: whole sentences."""
    return capitalized(phrase(rng, template, slots))


def has_words(text: str, words: str) -> bool:
    """Whether the words stand in the text, in any case, and not as a part of others."""
    return re.search(rf"\b{re.escape(words)}\b", text, re.IGNORECASE) is not None


def with_article(phrase: str) -> str:
    """The phrase behind `a` or `an`."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase
