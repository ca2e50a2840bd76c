"""Reads stories backwards: whether the grammar of `plots.py` could have told a text, with the same characters, things
and places from beginning to end. A text that it accepts is grammatical, keeps its characters and has an end.

A story is matched in small letters against its templates. Slots that the generator fills from a list take only words of
that list, of either split; the names of the hero and the friend may be any. Capitals are checked at the end.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import permutations

import words as w
from plots import PLOTS
from stories import GLUES, HABITS, INGREDIENTS, INTRODUCTIONS, NUMBERS, SIZES
from templates import capitalized, parse, with_article

Bindings = dict[str, str]

SPLITS = (w.TRAIN, w.HELD_OUT)
ANIMALS = [kind for split in SPLITS for kind in split.animals]
PLACES = {place: preposition for split in SPLITS for place, preposition in split.places.items()}

# What the generator puts into slots.
VALUES = {
    "kind": ["girl", "boy", *ANIMALS], "fkind": ["girl", "boy", *ANIMALS],
    **{things: [thing for split in SPLITS for thing in getattr(split, things)] for things in ("objects", "fragile", "crafts")},
    "look": [*w.COLORS, *w.LOOKS],
    "trait": [*SIZES, *w.TRAITS], "place": list(PLACES), "place2": list(PLACES),
    "dish": [dish for split in SPLITS for dish in split.dishes],
    "food": [food for split in SPLITS for food in split.foods], "tool": w.TOOLS, "color": w.COLORS, "spot": w.SPOTS,
    "home": w.HOMES, "parent": w.PARENTS, "weather": w.WEATHERS, "fear": w.FEARS, "trap": w.TRAPS, "plant": w.PLANTS,
    "lead": w.LEAD, "sign": w.SIGNS, "build": w.BUILDS, "number": NUMBERS, "glue": GLUES, "ingredient": INGREDIENTS,
    "soil": w.SOILS, "rest": w.RESTS, "shelter": w.SHELTERS, "corner": w.CORNERS,
}  # fmt: skip

# Slots that are made of another one.
MADE_OF = {
    "a_described": ("{trait} {kind}", with_article), "a_kind": ("{kind}", with_article),
    "a_fkind": ("{fkind}", with_article), "a_obj": ("{look} {noun}", with_article),
    "a_noun": ("{noun}", with_article), "a_plant": ("{plant}", with_article), "a_color": ("{color}", with_article),
    "obj": ("{look} {noun}", str), "the_place": ("{place}", "the {}".format),
    "the_place2": ("{place2}", "the {}".format), "at": ("{place}", lambda place: f"{PLACES[place]} the {place}"),
    "at2": ("{place2}", lambda place: f"{PLACES[place]} the {place}"),
    "tool_the": ("{tool}", lambda tool: f"the {tool.split(' ', 1)[1]}"),
}  # fmt: skip
PRONOUNS = {"he": ("he", "she"), "him": ("him", "her"), "his": ("his", "her")}
# Which of a pair of pronouns belongs to a child or a name. A name that training never has need not tell a girl from a boy:
# for it counts only that the pronoun stays the same.
GENDERS = {"boy": "0", "girl": "1"}
GENDERS |= {name.lower(): "0" for name in w.TRAIN.boys}
GENDERS |= {name.lower(): "1" for name in w.TRAIN.girls}


def could_be_told(text: str, **wanted: str) -> bool:
    """Whether the grammar tells this story word for word, and has in each slot of `wanted` what stands there."""
    wanted = {slot: value.lower() for slot, value in wanted.items()}
    every_reading = (bound for plot in range(len(PLOTS)) for bound in readings(plot, text.lower()))
    return any(wanted.items() <= bound.items() and is_consistent(bound, text) for bound in every_reading)


def is_consistent(bound: Bindings, text: str) -> bool:
    """Whether there are two characters, girls are she and boys he, two animals are of two kinds, and capitals stand where
    they should."""
    genders = [has_right_gender(bound, *slots) for slots in (("hero", "kind", "gender"), ("friend", "fkind", "fgender"))]
    is_same_animal = bound["kind"] in ANIMALS and bound["kind"] == bound.get("fkind")
    if bound["hero"] == bound["friend"] or is_same_animal or not all(genders):
        return False
    return has_right_capitals(text, [bound["hero"].capitalize(), bound["friend"].capitalize()])


def has_right_gender(bound: Bindings, name: str, kind: str, gender: str) -> bool:
    known = {GENDERS.get(bound.get(slot, "")) for slot in (name, kind)} | {bound.get(gender)}
    return len(known - {None}) <= 1


def has_right_capitals(text: str, characters: list[str]) -> bool:
    """Whether sentences, speeches, names and I have capitals, and nothing else."""
    one_of_them = rf'\b({"|".join(characters)})\b'
    named = all(name.capitalize() == name for name in re.findall(one_of_them, text, re.IGNORECASE))
    elsewhere = re.sub(rf'(^|[.!?]"? |")[A-Z]|{one_of_them}|\bI\b', "", text)
    return capitalized(text) == text and named and elsewhere == elsewhere.lower()


def readings(plot: int, text: str) -> Iterator[Bindings]:
    """The ways in which the text is a whole story of this plot."""
    for at, bound in match(story_sequence(plot), text + " ", 0, {"things": PLOTS[plot].things}):
        if at == len(text) + 1:
            yield bound


@cache
def story_sequence(plot: int) -> list:
    """Introduction, at most two habits, which are not the same, and the beats of the plot, each followed by a space."""
    habits = [[*parse(habit), " "] for habit in HABITS]
    at_most_two = ([], *habits, *([*one, *other] for one, other in permutations(habits, 2)))
    sequence = [tuple([*parse(introduction), " "] for introduction in INTRODUCTIONS), at_most_two]
    for beat in PLOTS[plot].beats:
        told = [*parse(beat.lstrip("?").strip()), " "]
        sequence.append(([], told) if beat.startswith("?") else (told,))
    return sequence


def match(sequence: list, text: str, at: int, bound: Bindings) -> Iterator[tuple[int, Bindings]]:
    """Every way to read the sequence from `at`: where it ends, and what its slots are then."""
    if not sequence:
        yield at, bound
        return
    for middle, bound_there in match_part(sequence[0], text, at, bound):
        yield from match(sequence[1:], text, middle, bound_there)


def match_part(part: tuple | str, text: str, at: int, bound: Bindings) -> Iterator[tuple[int, Bindings]]:
    if isinstance(part, tuple):
        for alternative in part:
            yield from match(alternative, text, at, bound)
    elif part[0] == "{":
        yield from match_slot(part[1:-1], text, at, bound)
    elif text.startswith(part.lower(), at):
        yield at + len(part), bound


def match_slot(slot: str, text: str, at: int, bound: Bindings) -> Iterator[tuple[int, Bindings]]:
    is_name = slot in ("hero", "friend")
    for spelled, bound_there in names(slot, text, at, bound) if is_name else spellings(slot, bound):
        if text.startswith(spelled, at) and not text[at + len(spelled) : at + len(spelled) + 1].isalpha():
            yield at + len(spelled), bound_there


def spellings(slot: str, bound: Bindings) -> Iterator[tuple[str, Bindings]]:
    """Everything that may stand for a slot, given what stood for others before."""
    if slot in MADE_OF:
        template, spell = MADE_OF[slot]
        yield from ((spell(inner), bound_there) for inner, bound_there in all_spellings(parse(template), bound))
    elif slot.removeprefix("f") in PRONOUNS:
        gender = "gender" if slot in PRONOUNS else "fgender"
        pair = PRONOUNS[slot.removeprefix("f")]
        yield from ((pair[int(index)], {**bound, gender: index}) for index in bound.get(gender, "01"))
    else:
        values = [bound[slot]] if slot in bound else VALUES[bound["things"] if slot == "noun" else slot]
        yield from ((value, {**bound, slot: value}) for value in values)


def all_spellings(sequence: list[str], bound: Bindings) -> Iterator[tuple[str, Bindings]]:
    """Everything that may stand for slots and literals one after the other."""
    if not sequence:
        yield "", bound
        return
    first, rest = sequence[0], sequence[1:]
    for head, bound_there in spellings(first[1:-1], bound) if first[0] == "{" else [(first, bound)]:
        yield from ((head + tail, bound_then) for tail, bound_then in all_spellings(rest, bound_there))


def names(slot: str, text: str, at: int, bound: Bindings) -> Iterator[tuple[str, Bindings]]:
    """The name that was there before, else any word."""
    name = bound.get(slot) or re.compile("[a-z]*").match(text, at)[0]
    if name:
        yield name, {**bound, slot: name}
