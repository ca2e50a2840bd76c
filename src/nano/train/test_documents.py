"""The generator and its grammar: `python3 -m unittest discover -s src/nano/train` (nothing to install)."""

import re
import unittest
from collections import Counter
from itertools import product
from random import Random

import documents as doc
import people
import stories
import sums
from grammar import could_be_told
from plots import BROKEN, PLOTS
from templates import all_texts, expand, has_words, parse, with_article
from words import HELD_OUT, TRAIN, held_out_words

N = 300


def texts(words, n: int = N, seed: str = "test") -> list[str]:
    rng = Random(seed)
    return [doc.document(rng, words) for _ in range(n)]


class Templates(unittest.TestCase):
    def test_a_template_expands_to_each_of_its_texts(self):
        template, slots = "[a|b [c|d]] {x}. [|e]", {"x": "y"}
        every = {"a y. ", "a y. e", "b c y. ", "b c y. e", "b d y. ", "b d y. e"}
        self.assertEqual(set(all_texts(parse(template), slots)), every)
        rng = Random(1)
        drawn = {expand(rng, template, slots) for _ in range(200)}
        self.assertEqual({text.lower() for text in drawn}, every)

    def test_sentences_and_speeches_begin_with_capitals(self):
        told = 'she ran. "who? me?" asked {x}. then she said, "it is late." "yes," said {x}, "come in!"'
        expected = 'She ran. "Who? Me?" asked Mo. Then she said, "It is late." "Yes," said Mo, "come in!"'
        self.assertEqual(expand(Random(1), told, {"x": "Mo"}), expected)


class Documents(unittest.TestCase):
    def test_a_seed_gives_the_same_documents(self):
        self.assertEqual(texts(TRAIN), texts(TRAIN))
        self.assertNotEqual(texts(TRAIN), texts(TRAIN, seed="other"))

    def test_training_never_sees_a_held_out_word(self):
        seen = set(re.findall(r"[a-z]+", " ".join(texts(TRAIN, 3000)).lower()))
        self.assertEqual(seen & held_out_words(), set())
        self.assertTrue(held_out_words() <= set(re.findall(r"[a-z]+", " ".join(texts(HELD_OUT, 3000)).lower())))

    def test_a_pair_of_numbers_belongs_to_one_split_in_either_order(self):
        for sign, a, b in product("+-<", range(100), range(100)):
            self.assertEqual(TRAIN.allows_sum(sign, a, b), TRAIN.allows_sum(sign, b, a))
            self.assertNotEqual(TRAIN.allows_sum(sign, a, b), HELD_OUT.allows_sum(sign, a, b))
        one_digit = sum(HELD_OUT.allows_sum("+", a, b) for a in range(10) for b in range(10))
        self.assertGreater(one_digit, 5)

    def test_what_nobody_has_heard_of_is_in_a_story_only_if_it_was_asked_for(self):
        rng, n_strange = Random(1), 0
        for _ in range(N):
            asked, story = doc.asked_story(rng, TRAIN)
            n_strange += bool(story.unheard_of)
            self.assertEqual([word for word in story.unheard_of if not has_words(asked, word)], [], story.text)
            self.assertEqual(stories.tell(rng, TRAIN).unheard_of, [])
        self.assertGreater(n_strange, N / 20)

    def test_questions_about_people_have_their_answer_in_what_was_told(self):
        rng = Random(1)
        for _, words in product(range(N), (TRAIN, HELD_OUT)):
            told, asked = people.described(rng, words)
            sentences = [sentence.rstrip(".").split() for sentence in told.split(". ")]
            for question, answer in asked:
                name, *_, last = answer.rstrip(".").split()
                saying = [sentence for sentence in sentences if last in sentence or last in sentence[-1:]]
                self.assertTrue(any(name in sentence for sentence in saying), (told, answer))
                if question.startswith("Who") and last in question:
                    self.assertEqual(len(saying), 1, (told, question))

    def test_calculations_are_right(self):
        rng, numbers = Random(1), re.compile(r"\d+")
        results = {sums.addition: lambda a, b: [a, b, a + b], sums.subtraction: lambda a, b: [max(a, b), min(a, b), abs(a - b)]}
        for kind, result in results.items():
            for _ in range(N):
                asked, answer = kind(rng, TRAIN)
                self.assertEqual(list(map(int, numbers.findall(answer))), result(*map(int, numbers.findall(asked))))

    def test_comparisons_are_right(self):
        rng = Random(1)
        for _ in range(N):
            _, answer = sums.comparison(rng, TRAIN)
            first, is_larger, second = re.fullmatch(r"(\d+) is (bigger|smaller) than (\d+)\.", answer).groups()
            self.assertEqual(int(first) > int(second), is_larger == "bigger")

    def test_every_document_ends_once_and_has_no_open_slot(self):
        for text in texts(TRAIN) + texts(HELD_OUT):
            self.assertEqual(text.count(doc.END_OF_TEXT), 1)
            self.assertTrue(text.endswith(doc.END_OF_TEXT))
            self.assertNotRegex(text, r"[{}\[\]]|  | [.,!]|[a-z] \?|\ba [aeiou]")

    def test_documents_are_not_repeated(self):
        counts = Counter(text for text in texts(TRAIN, 2000) if len(text) > 300)
        self.assertEqual([text for text, count in counts.items() if count > 1], [])


class Grammar(unittest.TestCase):
    def test_it_accepts_what_was_told(self):
        rng = Random(1)
        for plot, words, _ in product(PLOTS, (TRAIN, HELD_OUT), range(10)):
            text = stories.tell(rng, words, plot).text
            self.assertTrue(could_be_told(text), text)

    def test_it_refuses_stories_that_went_wrong(self):
        rng = Random(2)
        for plot in PLOTS:
            story = stories.tell(rng, rng.choice([TRAIN, HELD_OUT]), plot)
            for changed in self.changes(story):
                self.assertFalse(changed != story.text and could_be_told(changed), changed)

    def changes(self, story: stories.Story) -> list[str]:
        text, slots, hero, friend = story.text, story.slots, story.hero.name, story.friend.name
        before, _, behind = text.rpartition(hero)
        wrong = {" she ": " he ", " he ": " she ", slots["home"]: "lived the of where", slots["spot"]: "the of cat",
                 slots["noun"]: "the", slots["place"]: "of", " in the ": " by the ", " on the ": " in the ",
                 f" {story.hero.kind}": " because", " a ": " an ", " an ": " a ", ". ": ", ", "was": "were"}  # fmt: skip
        return [f"{before}Somebody{behind}", text.replace(friend, hero), text[:-20], f"{text} {story.sentences[-1]}",
                text.lower(), text.upper(), text.replace(hero, hero.lower()),
                *(text.replace(right, other, 1) for right, other in wrong.items())]  # fmt: skip

    def test_it_refuses_other_heroes_kinds_twice_and_things_that_do_not_break(self):
        rng = Random(4)
        for _ in range(N):
            story = stories.tell(rng, TRAIN)
            hero, friend = story.hero, story.friend
            if not could_be_told(story.text):
                continue  # a name such as Will that is a word elsewhere, where capitals then seem wrong
            self.assertTrue(could_be_told(story.text, hero=hero.name, kind=hero.kind))
            self.assertFalse(could_be_told(story.text, hero=friend.name))
            self.assertFalse(could_be_told(story.text, hero=hero.name, kind="otter"))
            if hero.is_animal and friend.is_animal and f"{with_article(friend.kind)}" in story.text:
                alike = story.text.replace(with_article(friend.kind), with_article(hero.kind))
                self.assertFalse(could_be_told(alike), alike)
        broken = stories.tell(rng, TRAIN, BROKEN)
        self.assertFalse(could_be_told(broken.text.replace(broken.slots["noun"], "pillow")))

    def test_questions_have_their_answer_among_the_right_ones(self):
        rng = Random(3)
        for _ in range(N):
            for question in stories.tell(rng, HELD_OUT).questions:
                self.assertIn(question.answer, question.right)


if __name__ == "__main__":
    unittest.main()
