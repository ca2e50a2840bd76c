"""Several people with one fact each, and questions about them: what it takes to find again what belongs to whom."""

from collections.abc import Callable
from random import Random

import sums
from stories import character
from templates import expand, with_article
from words import COLORS, FEARS, HOMES, LOOKS, PARENTS, Words

# What is told of somebody, and what can be asked then, with the answers.
FACTS = [
    ("{name} has {a_obj}.", [("what does {name} have?", "{name} has {a_obj}."),
                             ("who has the {noun}?", "{name} has the {noun}.")]),
    ("{name} [made|bought] {a_noun} for {other}.", [("who got the {noun}?", "{other} got the {noun}."),
                                                    ("what did {other} get?", "{other} got {a_noun}.")]),
    ("{name} lost {a_obj} {at}.", [("what did {name} lose?", "{name} lost {a_obj}."),
                                   ("where did {name} lose the {noun}?", "{name} lost the {noun} {at}."),
                                   ("who lost the {noun}?", "{name} lost the {noun}.")]),
    ("{name} [is|sits|plays] {at}.", [("where is {name}?", "{name} is {at}."), ("who is {at}?", "{name} is {at}.")]),
    ("{name} [likes|eats] {food}.", [("what does {name} like?", "{name} likes {food}."),
                                     ("who likes {food}?", "{name} likes {food}.")]),
    ("{name} is {a_animal}.", [("what is {name}?", "{name} is {a_animal}."),
                               ("who is {a_animal}?", "{name} is {a_animal}.")]),
    ("{name} lives {home}.", [("where does {name} live?", "{name} lives {home}.")]),
    ("{name} lives with {his} {parent}.", [("who does {name} live with?", "{name} lives with {his} {parent}.")]),
    ("{name} is afraid of {fear}.", [("what is {name} afraid of?", "{name} is afraid of {fear}.")]),
]  # fmt: skip
INVENTED_SHARE = 0.3


def described(rng: Random, words: Words) -> tuple[str, list[sums.Exchanged]]:
    """What is told of each, and questions about some of them with their answers."""
    sentences, asked, taken = [], [], set()
    for _ in range(rng.choice([2, 3, 3, 4, 5, 6])):
        slots = person(rng, words, taken)
        statement, questions = rng.choice(FACTS)
        question, answer = rng.choice(questions)
        sentences.append(expand(rng, statement, slots))
        asked.append((expand(rng, question, slots), expand(rng, answer, slots)))
    rng.shuffle(asked)
    return " ".join(sentences), asked[: rng.choice([1, 2, 4, 6])]


def person(rng: Random, words: Words, taken: set[str]) -> dict[str, str]:
    """Somebody, with words that none before them has taken."""

    def new(draw: Callable[[], str]) -> str:
        while (word := draw()) in taken:
            pass
        taken.add(word)
        return word

    def thing(known: list[str]) -> str:
        return new(lambda: words.invented_thing(rng) if rng.random() < INVENTED_SHARE else rng.choice(known))

    who = character(rng, words)
    noun, place = thing(words.objects), thing(list(words.places))
    return {
        "name": new(lambda: words.name(rng, who.is_female)), "other": new(lambda: words.name(rng)), **who.slots(""),
        "noun": noun, "a_noun": with_article(noun), "a_obj": with_article(f"{rng.choice(COLORS + LOOKS)} {noun}"),
        "at": f"{words.places.get(place, 'near')} the {place}", "food": thing(words.foods),
        "a_animal": with_article(thing(words.animals)), "home": rng.choice(HOMES), "parent": rng.choice(PARENTS),
        "fear": rng.choice(FEARS),
    }  # fmt: skip
