"""Documents of all kinds, drawn from a seed: stories, conversations, sums, and answers under a system prompt."""

from collections.abc import Callable
from random import Random

import people
import sums
import talk
from stories import Question, Story, tell
from templates import capitalized, expand, has_words, phrase, with_article
from words import Words

END_OF_TEXT, END, SYSTEM, USER, ASSISTANT = "<|endoftext|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"
SPECIAL_TOKENS = [END_OF_TEXT, END, SYSTEM, USER, ASSISTANT]

Turns = list[tuple[str, str]]

ASKED_FREELY = ["[please |]tell me a[ short| nice| little| new|] story[.| please.|!]", "[can|could] you tell me a[ short|] story?",
                "[please |]write a[ short|] story[ for me|][.|!]", "I want to hear a story[.|!]", "a story, please[.|!]",
                "do you know a[ nice| good|] story?"]  # fmt: skip
ASKED_ABOUT = ["[please |]tell me a[ short|] story about {topic}[.|]", "[can|could] you tell me a story about {topic}?",
               "[please |]write a[ short|] story about {topic}[.|]", "I want to hear a story about {topic}.",
               "a story about {topic}, please[.|]"]  # fmt: skip
TOPICS = ["{a_kind}", "{a_kind} named {hero}", "{a_kind} named {hero}", "{a_kind} named {hero} and {a_fkind} named {friend}",
          "{a_kind} called {hero}", "{a_kind} named {hero} and {a_noun}"]  # fmt: skip
GIVEN = ["[here is a story|read this story|listen to this story|I have a story for you][:|.] {story} {question}",
         "{story} {question}"]  # fmt: skip

REPEAT = "[repeat after me|repeat|say this again|please repeat|say]:"

ONE_SENTENCE = ["[please |always |]answer in one sentence.", "answer with [one|a single] sentence.",
                "[use|write] only one sentence.", "keep every answer to one sentence.", "you answer in one sentence."]  # fmt: skip
CAPITALS = ["[please |always |]answer in capital letters.", "[use|write] only capital letters.",
            "write everything in capital letters.", "you answer in capital letters."]  # fmt: skip
BOTH = ["answer in one sentence and in capital letters.", "[use|write] one sentence in capital letters."]
# Wordings that training never sees.
HELD_OUT_ONE_SENTENCE = ["write one sentence only.", "one sentence, please.", "let every answer be one sentence."]
HELD_OUT_CAPITALS = ["capital letters only.", "answer with capital letters, please.", "let every answer be in capital letters."]
NEUTRAL = ["you are a [helpful|friendly] assistant.", "you are Nano, a small language model.", "be [kind|helpful].",
           "you tell stories and answer questions."]  # fmt: skip


def chat(turns: Turns, system: str | None = None) -> str:
    """A conversation as the chat template writes it."""
    head = f"{SYSTEM}{system}{END}" if system else ""
    return head + "".join(f"{USER}{asked}{END}{ASSISTANT}{answer}{END}" for asked, answer in turns)


def request(rng: Random, story: Story) -> str:
    """What a user says to be told this story."""
    if rng.random() < 0.3:
        return expand(rng, rng.choice(ASKED_FREELY), {})
    return expand(rng, rng.choice(ASKED_ABOUT), {"topic": topic(rng, story)})


def asked_story(rng: Random, words: Words) -> tuple[str, Story]:
    """What a user says to be told a story, and the story."""
    if rng.random() < 0.35:
        return asked_strange_story(rng, words)
    story = tell(rng, words)
    return request(rng, story), story


def asked_strange_story(rng: Random, words: Words) -> tuple[str, Story]:
    """A story with something that nobody has heard of, all of which the user asks for."""
    while True:
        story = tell(rng, words.with_unheard_of(rng, "animals", "objects"))
        asked = request(rng, story)
        if story.unheard_of and all(has_words(asked, word) for word in story.unheard_of):
            return asked, story


def read_story(rng: Random, words: Words) -> Story:
    """A story for a user to tell, who may know what nobody else has heard of."""
    strange = ("animals", "objects", "foods", "dishes", "places") if rng.random() < 0.5 else ()
    return tell(rng, words.with_unheard_of(rng, *strange))


def topic(rng: Random, story: Story) -> str:
    """Something that the story is about, such that the story has all of it."""
    while True:
        template = rng.choice(TOPICS)
        if "a_noun" in template and not has_words(story.text, story.slots["noun"]):
            continue
        if "friend" in template and not introduced(story):
            continue
        return phrase(rng, template, story.slots)


def introduced(story: Story) -> bool:
    """Whether the story says what the friend is."""
    return has_words(story.text, with_article(story.friend.kind))


def asked_after(questions: list[Question], n: int) -> Turns:
    return [(question.text, question.answer) for question in questions[:n]]


def plain_story(rng: Random, words: Words) -> str:
    return tell(rng, words).text


def story_on_request(rng: Random, words: Words) -> str:
    asked, story = asked_story(rng, words)
    n_questions = rng.choice([0, 1, 2, 4, 8])
    return chat([(asked, story.text), *asked_after(story.questions, n_questions)], neutral_or_none(rng))


def story_given(rng: Random, words: Words) -> str:
    """Somebody tells a story, or its short form, and asks about it."""
    story = read_story(rng, words)
    told, questions = rng.choice([(story.text, story.questions), (in_short(story), asked_in_short(story))])
    first, *others = questions[: rng.choice([1, 2, 4, 8])]
    given = expand(rng, rng.choice(GIVEN), {"story": told, "question": first.text})
    return chat([(given, first.answer), *asked_after(others, len(others))], neutral_or_none(rng))


def in_short(story: Story) -> str:
    """The story in two sentences."""
    return f"{story.sentences[0]} {story.summary}"


def asked_in_short(story: Story) -> list[Question]:
    """The questions that the short form answers: of its friend, it says only that there is one."""
    told, friend = in_short(story), story.friend.name
    return [question for question in story.questions if question.key != friend and question.is_answered_by(told)]


def neutral_or_none(rng: Random) -> str | None:
    return expand(rng, rng.choice(NEUTRAL), {}) if rng.random() < 0.15 else None


def calculation(rng: Random, words: Words) -> str:
    return chat([sums.exchange(rng, words) for _ in range(rng.choice([1, 2, 3, 4, 6]))], neutral_or_none(rng))


def equations(rng: Random, words: Words) -> str:
    """Sums as plain lines."""
    pairs = [sums.pair(rng, words, "+") for _ in range(rng.choice([1, 2, 4, 6]))]
    return "\n".join(f"{a} + {b} = {a + b}" for a, b in pairs)


def repetition(rng: Random, words: Words) -> str:
    """Words without a meaning, said again: what it takes to tell of somebody with a new name."""
    turns = []
    for _ in range(rng.choice([1, 1, 2])):
        told = " ".join(anything(rng, words) for _ in range(rng.randint(2, 20)))
        turns.append((f"{expand(rng, REPEAT, {})} {told}", told))
    return chat(turns)


def anything(rng: Random, words: Words) -> str:
    """A name, a thing, an animal, a place, a number or an invented word."""
    kind = rng.random()
    if kind < 0.4:
        return words.invented_name(rng, rng.random() < 0.5)
    if kind < 0.7:
        return rng.choice(rng.choice([words.girls, words.boys, words.objects, words.animals, sorted(words.places)]))
    return words.invented_thing(rng) if kind < 0.9 else str(rng.randrange(100))


def described_people(rng: Random, words: Words) -> str:
    """Somebody tells of several people in one breath, and asks about them."""
    told, [(first, answer), *others] = people.described(rng, words)
    return chat([(f"{told} {first}", answer), *others], neutral_or_none(rng))


def conversation(rng: Random, words: Words) -> str:
    return chat(small_talk(rng, words, talkative), neutral_or_none(rng))


def small_talk(rng: Random, words: Words, answer: Callable[[Random, talk.Exchange], str]) -> Turns:
    """A conversation in which everything is answered in the same way."""
    slots = talk.slots(rng, words)
    return [(expand(rng, exchange.said, slots), expand(rng, answer(rng, exchange), slots))
            for exchange in talk.conversation(rng)]  # fmt: skip


def talkative(rng: Random, exchange: talk.Exchange) -> str:
    """The template of an answer that mostly says more than it has to."""
    return f"{exchange.answer} {exchange.more}" if exchange.more and rng.random() < 0.75 else exchange.answer


def laconic(_: Random, exchange: talk.Exchange) -> str:
    """The template of an answer that says no more than it has to."""
    return exchange.answer


def in_one_sentence(rng: Random, words: Words) -> Turns:
    """Any kind of turn with an answer of one sentence."""
    kind = rng.random()
    if kind < 0.45:
        return [(said, as_one_sentence(answer)) for said, answer in small_talk(rng, words, laconic)]
    if kind < 0.6:
        return [sums.exchange(rng, words) for _ in range(rng.choice([1, 2, 3]))]
    if kind < 0.85:
        asked, story = asked_story(rng, words)
        return [(asked, summary(story))]
    story = read_story(rng, words)
    first = story.questions[0]
    return [(f"{story.text} {first.text}", first.answer)]


def as_one_sentence(answer: str) -> str:
    """A greeting and a question become one sentence."""
    head, mark, rest = answer.partition("! ")
    return f"{head}, {rest[0].lower()}{rest[1:]}" if mark else answer


def summary(story: Story) -> str:
    """The story in one sentence that introduces its hero."""
    introduced_hero = f"{with_article(story.hero.kind)} named {story.hero.name}"
    return capitalized(story.summary.replace(story.hero.name, introduced_hero, 1))


def in_capitals(rng: Random, words: Words) -> Turns:
    """Any kind of turn with its answers in capital letters."""
    turns = in_one_sentence(rng, words) if rng.random() < 0.7 else more_than_one_sentence(rng, words)
    return [(asked, answer.upper()) for asked, answer in turns]


def more_than_one_sentence(rng: Random, words: Words) -> Turns:
    if rng.random() < 0.5:
        return small_talk(rng, words, talkative)
    asked, story = asked_story(rng, words)
    return [(asked, in_short(story))]


def under_system_prompt(rng: Random, words: Words) -> str:
    kind = rng.random()
    if kind < 0.5:
        return chat(in_one_sentence(rng, words), expand(rng, rng.choice(ONE_SENTENCE), {}))
    if kind < 0.88:
        return chat(in_capitals(rng, words), expand(rng, rng.choice(CAPITALS), {}))
    upper = [(asked, answer.upper()) for asked, answer in in_one_sentence(rng, words)]
    return chat(upper, expand(rng, rng.choice(BOTH), {}))


KINDS = [(plain_story, 0.13), (story_on_request, 0.21), (story_given, 0.14), (described_people, 0.06), (repetition, 0.05),
         (calculation, 0.25), (equations, 0.02), (conversation, 0.04), (under_system_prompt, 0.1)]  # fmt: skip


def document(rng: Random, words: Words) -> str:
    """One document, ended."""
    kinds, weights = zip(*KINDS)
    return rng.choices(kinds, weights)[0](rng, words) + END_OF_TEXT
