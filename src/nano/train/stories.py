"""Stories from plots, with what can be asked about them."""

from dataclasses import dataclass
from random import Random

from plots import PLOTS, Fact, Plot
from templates import all_texts, capitalized, expand, has_words, parse, with_article
from words import (BUILDS, COLORS, CORNERS, FEARS, HOMES, KNOWN_WORDS, LEAD, LOOKS, PARENTS, PLANTS, RESTS, SHELTERS,
                   SIGNS, SOILS, SPOTS, TOOLS, TRAITS, TRAPS, WEATHERS, Words)  # fmt: skip

INTRODUCTIONS = [
    "once upon a time, there [was|lived] {a_described} named {hero}.",
    "once upon a time, there was {a_described}. {his} name was {hero}.",
    "[once there was|there once was|there once lived] {a_described} [named|called] {hero}.",
    "{hero} was {a_described} who lived {home}.",
    "once upon a time, {a_described} named {hero} lived {home}.",
    "[long ago|many years ago], {a_described} [named|called] {hero} lived {home}.",
    "this is the story of {hero}, {a_described}.",
    "{hero} was {a_described}, and everybody liked {him}.",
]

HABITS = [
    "{he} [liked|loved] to [sing|read|draw|climb trees|look at the stars|swim|collect stones|dance|tell jokes].",
    "every morning, {he} [greeted the sun|drank a cup of milk|went for a walk|swept the floor].",
    "{he} was [never|seldom|hardly ever] [bored|late|in a hurry|loud].",
    "{his} [eyes were bright|laugh was loud|steps were light|voice was soft], and {his} heart was [good|warm|big].",
    "{he} lived with {his} {parent}.",
    "everyone [in the neighborhood|who met {him}|around] [liked|knew|smiled at] {hero}.",
]

ABOUT_HERO = Fact("[who is the story about|who is the hero of the story|what is the hero's name]?",
                  "the story is about {hero}.", "{hero}")  # fmt: skip
ABOUT_HOME = Fact("where did {hero} live?", "{hero} lived {home}.", "{home}")
ABOUT_PARENT = Fact("who did {hero} live with?", "{hero} lived with {his} {parent}.", "{parent}")
ABOUT_KIND = Fact("what [kind of animal|animal] was {hero}?", "{hero} was {a_kind}.", "{kind}")

SIZES = ["little", "small", "young", "little", "small"]
GLUES = ["glue", "string", "tape", "wax", "a needle and thread", "honey"]
NUMBERS = "three four five six seven eight nine ten twelve twenty".split()
INGREDIENTS = ["sugar", "salt", "flour", "pepper", "cream", "oil", "water", "vanilla"]


@dataclass(frozen=True)
class Character:
    """Somebody in a story."""

    name: str
    kind: str
    is_female: bool

    @property
    def is_animal(self) -> bool:
        return self.kind not in ("girl", "boy")

    def slots(self, prefix: str) -> dict[str, str]:
        """The pronouns, with `f` before them for the friend."""
        he, him, his = ("she", "her", "her") if self.is_female else ("he", "him", "his")
        return {f"{prefix}he": he, f"{prefix}him": him, f"{prefix}his": his, f"{prefix}kind": self.kind,
                f"a_{prefix}kind": with_article(self.kind)}  # fmt: skip


@dataclass(frozen=True)
class Question:
    """Something to ask about a story, with a right answer and all that are right, and what the story has to say."""

    text: str
    answer: str
    right: list[str]
    key: str

    def is_answered_by(self, told: str) -> bool:
        return has_words(told, self.key)


@dataclass(frozen=True)
class Story:
    """A story that has been told."""

    sentences: list[str]
    questions: list[Question]
    summary: str
    hero: Character
    friend: Character
    slots: dict[str, str]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)

    @property
    def unheard_of(self) -> list[str]:
        """The invented words that it has for its characters' kinds and its thing."""
        kinds = [who.kind for who in (self.hero, self.friend) if who.is_animal]
        return [word for word in [*kinds, self.slots["noun"]] if word not in KNOWN_WORDS and has_words(self.text, word)]


def character(rng: Random, words: Words) -> Character:
    is_female = rng.random() < 0.5
    child = "girl" if is_female else "boy"
    kind = child if rng.random() < 0.55 else rng.choice(words.animals)
    return Character(words.name(rng, is_female), kind, is_female)


def characters(rng: Random, words: Words) -> tuple[Character, Character]:
    """A hero and a friend with another name and, where both are animals, of another kind."""
    hero = character(rng, words)
    while True:
        friend = character(rng, words)
        if friend.name != hero.name and not (friend.is_animal and friend.kind == hero.kind):
            return hero, friend


def scene(rng: Random, words: Words, hero: Character, friend: Character, things: str) -> dict[str, str]:
    """A value for every slot."""
    place, place2 = rng.sample(sorted(words.places), 2)
    noun, color, tool, plant = map(rng.choice, (getattr(words, things), COLORS, TOOLS, PLANTS))
    look = rng.choice([color, rng.choice(LOOKS)])
    described = f"{rng.choice([rng.choice(SIZES), rng.choice(TRAITS)])} {hero.kind}"
    return {
        "hero": hero.name, "friend": friend.name, **hero.slots(""), **friend.slots("f"),
        "a_described": with_article(described),
        "noun": noun, "obj": f"{look} {noun}", "a_obj": with_article(f"{look} {noun}"), "a_noun": with_article(noun),
        "place": place, "the_place": f"the {place}", "at": f"{words.places[place]} the {place}",
        "place2": place2, "the_place2": f"the {place2}", "at2": f"{words.places[place2]} the {place2}",
        "tool": tool, "tool_the": "the " + tool.split(" ", 1)[1], "color": color, "spot": rng.choice(SPOTS),
        "home": rng.choice(HOMES), "food": rng.choice(words.foods), "parent": rng.choice(PARENTS),
        "weather": rng.choice(WEATHERS), "fear": rng.choice(FEARS), "trap": rng.choice(TRAPS),
        "plant": plant, "a_plant": with_article(plant), "a_color": with_article(color),
        "lead": rng.choice(LEAD), "sign": rng.choice(SIGNS), "build": rng.choice(BUILDS),
        "number": rng.choice(NUMBERS),
        "glue": rng.choice(GLUES), "ingredient": rng.choice(INGREDIENTS), "dish": rng.choice(words.dishes),
        "soil": rng.choice(SOILS), "rest": rng.choice(RESTS), "shelter": rng.choice(SHELTERS),
        "corner": rng.choice(CORNERS),
    }  # fmt: skip


def beginning(rng: Random, slots: dict[str, str]) -> list[str]:
    sentences = [expand(rng, rng.choice(INTRODUCTIONS), slots)]
    for habit in rng.sample(HABITS, rng.choice([0, 1, 1, 2])):
        sentences.append(expand(rng, habit, slots))
    return sentences


def middle(rng: Random, plot: Plot, slots: dict[str, str]) -> list[str]:
    beats = [beat for beat in plot.beats if not beat.startswith("?") or rng.random() < 0.5]
    return [expand(rng, beat.lstrip("?"), slots).strip() for beat in beats]


def questions(rng: Random, plot: Plot, told: str, slots: dict[str, str], hero: Character) -> list[Question]:
    """What can be asked, in random order, and only if the story says it."""
    facts = [*plot.facts, ABOUT_HERO]
    if slots["home"] in told:
        facts.append(ABOUT_HOME)
    if f"lived with {slots['his']} {slots['parent']}" in told:
        facts.append(ABOUT_PARENT)
    if hero.is_animal:
        facts.append(ABOUT_KIND)
    rng.shuffle(facts)
    asked = [question(rng, fact, slots) for fact in facts]
    return [question for question in asked if question.is_answered_by(told)]


def question(rng: Random, fact: Fact, slots: dict[str, str]) -> Question:
    right = [capitalized(text) for text in all_texts(parse(fact.answer), slots)]
    key = slots[fact.key.strip("{}")]
    return Question(expand(rng, fact.question, slots), expand(rng, fact.answer, slots), right, key)


def tell(rng: Random, words: Words, plot: Plot | None = None) -> Story:
    """A new story."""
    plot = plot or rng.choice(PLOTS)
    hero, friend = characters(rng, words)
    slots = scene(rng, words, hero, friend, plot.things)
    sentences = beginning(rng, slots) + middle(rng, plot, slots)
    told = " ".join(sentences)
    summary = expand(rng, plot.summary, slots)
    return Story(sentences, questions(rng, plot, told, slots, hero), summary, hero, friend, slots)
