"""The words that documents are made of, split into those that training sees and those that only tests see."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random

GIRLS = """Mia Lily Anna Emma Zoe Ruby Clara Nora Ella Rosa Lucy Ivy Maya Sara Tina Alice Daisy Eva Grace Hanna Iris
Julia Kate Lena Molly Nina Olive Paula Stella Tara Vera Wendy Amy Bella Cora Dora Elsa Flora Gina Holly Jane Kira
Lola Mary Nelly Penny Rita Sofia Tess Willa Betty Carla Edna Fiona Greta Ida Jenny Laura Mona Polly""".split()
BOYS = """Tom Ben Max Sam Leo Jack Finn Noah Oscar Henry Paul Peter Adam Carl David Eli Felix George Hugo Ivan Jacob
Karl Liam Mark Nick Otto Philip Ron Simon Theo Victor Will Zack Alan Bob Charlie Dan Eric Frank Gus Harry Ian Joe
Kevin Luke Milo Ned Oliver Pete Ralph Scott Tim Walter Andy Bill Colin Dennis Emil Fred Gabriel Jim""".split()
HELD_OUT_GIRLS = "Wilma Agnes Bridget Thea Martha Odette Heidi Yvonne Matilda Ursula Sylvie Gwen".split()
HELD_OUT_BOYS = "Edgar Bruno Magnus Jasper Hector Lionel Cedric Rufus Quentin Barnaby Amos Wilfred".split()

ANIMALS = """fox rabbit mouse bear cat dog duck frog hedgehog squirrel owl turtle lamb pony goat sparrow beaver
mole deer pig wolf crow monkey lion elephant kitten puppy parrot camel zebra tiger giraffe swan pigeon raven robin
lizard toad snail ferret weasel moose bison panda koala gecko falcon heron stork walrus seal whale dolphin crab lobster
hamster marten lynx cricket magpie peacock turkey tortoise chipmunk piglet foal calf""".split()
HELD_OUT_ANIMALS = "otter badger penguin donkey".split()

OBJECTS = """ball kite drum hat scarf doll book bell whistle basket cup ring key button coin feather shell lamp
blanket mirror ribbon flute mitten spoon jar map pillow umbrella wagon robot puppet crown necklace clock brush bucket
marble pebble balloon boat box bag coat shoe bracelet toy star flag pencil plate wheel
hammer ladle thimble goblet pitcher barrel banner bonnet sandal slipper glove jacket helmet shield sword arrow candy
cushion carpet curtain cradle saddle anchor paddle rudder telescope magnet wallet purse locket brooch pendant
crystal diamond emerald pearl amber vase statue carving mask fiddle harp banjo guitar horn gong tambourine notebook
journal letter postcard stamp poster calendar pen crayon easel canvas quilt towel apron jug saucer teacup bottle
flask funnel sieve tray bowl dish pan lid cork needle bobbin spindle loom hook hinge latch padlock chain
rattle domino puzzle kazoo rocket sled skate sundial prism lens torch broom rake
trowel shovel sickle basin pail mitt badge medal trophy pin clasp bead shawl cape cloak sash vest turban wig""".split()
HELD_OUT_OBJECTS = "lantern violin compass teapot candle kettle backpack trumpet".split()

FRAGILE = """drum doll whistle cup jar mirror umbrella robot puppet clock boat flute lamp plate toy telescope vase statue
carving mask fiddle harp banjo guitar horn jug saucer teacup bottle flask bowl dish pitcher goblet lens prism torch
sundial rattle kazoo lantern violin compass teapot trumpet""".split()
CRAFTS = """kite hat scarf doll basket ring crown necklace bracelet box bag boat puppet purse banner bonnet star flag toy
mask badge medal pendant cape shawl sash turban wagon sled rattle poster journal cushion lantern backpack""".split()

DISHES = """bread cake soup pie porridge jam pudding salad toast risotto lasagna chowder gravy custard fudge
curry goulash hummus""".split()
HELD_OUT_DISHES = "stew pasta".split()
FOODS = [*DISHES, "cheese", "honey", "milk", "corn", "rice", "butter", "popcorn", "barley", "spinach", "cabbage", "garlic",
         "mustard", "syrup", "licorice", "yogurt", "ginger", "pumpkin", "celery", "melon", "tofu"]
HELD_OUT_FOODS = [*HELD_OUT_DISHES, "chocolate"]

PLACES = {
    "garden": "in", "forest": "in", "river": "by", "lake": "by", "hill": "on", "meadow": "in", "market": "at",
    "beach": "on", "barn": "in", "bridge": "near", "farm": "on", "park": "in", "pond": "by", "cave": "in",
    "attic": "in", "kitchen": "in", "orchard": "in", "field": "in", "mill": "at", "tower": "in", "yard": "in",
    "well": "near", "playground": "on", "library": "in", "bakery": "at", "stable": "in", "island": "on",
    "cellar": "in", "temple": "in", "station": "at", "museum": "in", "desert": "in", "jungle": "in", "canyon": "in",
    "cliff": "on", "dock": "on", "fountain": "by", "glacier": "on", "grove": "in", "swamp": "in", "vineyard": "in",
    "quarry": "in", "chapel": "in", "workshop": "in", "balcony": "on", "terrace": "on", "tunnel": "in",
    "waterfall": "by", "square": "on", "creek": "by", "dune": "on", "plateau": "on", "ruin": "in", "theater": "in",
}  # fmt: skip
HELD_OUT_PLACES = {"harbor": "at", "palace": "in", "lighthouse": "near", "valley": "in"}

PREPOSITIONS = ["in", "in", "at", "on", "by", "near"]
KNOWN_WORDS = {*ANIMALS, *HELD_OUT_ANIMALS, *OBJECTS, *HELD_OUT_OBJECTS, *FOODS, *HELD_OUT_FOODS, *PLACES,
               *HELD_OUT_PLACES,
               *(name.lower() for name in GIRLS + BOYS + HELD_OUT_GIRLS + HELD_OUT_BOYS)}  # fmt: skip

COLORS = "red blue green yellow purple orange white black pink brown golden silver".split()
LOOKS = "little shiny soft old new tiny big round pretty lovely".split()
TRAITS = "kind brave curious clever quiet cheerful gentle happy friendly careful lively merry".split()
PARENTS = "mother father grandmother grandfather aunt uncle".split()
WEATHERS = "sunny windy cold warm bright cloudy rainy foggy quiet misty".split()
SPOTS = [
    "under a big leaf", "behind an old door", "inside a hollow log", "between two rocks", "under a wooden bench",
    "behind a tall fence", "in the long grass", "beside a thorny bush", "on top of a haystack", "under the stairs",
    "at the foot of an oak tree", "inside a dusty chest", "behind a row of barrels", "in a bird's nest",
    "under a pile of leaves", "next to a mossy stone", "in an empty flower pot", "behind a heavy curtain",
    "on a low branch", "inside a broken cart",
]  # fmt: skip
HOMES = [
    "in a small house by the sea", "in a cottage at the edge of the woods", "in a cozy home under an oak tree",
    "at the end of a long road", "in a village between two mountains", "in a tall house with a green roof",
    "near a quiet stream", "on a street with many trees", "at the top of a steep path", "in a warm little hut",
    "behind the old church", "in a town full of flowers", "next to a windmill", "in a house with round windows",
]  # fmt: skip
SOILS = ["in the garden", "in the field", "behind the house", "near the well", "in a flower pot", "by the fence",
         "in the yard", "under the window"]  # fmt: skip
RESTS = ["in the long grass", "under a wide tree", "next to the road", "in the shade of a wall", "by a cool stream"]
SHELTERS = ["in a dry cave", "in an old shed", "under a wide tree", "under a stone bridge", "behind a stone wall",
            "in an empty hut", "inside a hollow log", "under a cart", "beneath a big rock"]  # fmt: skip
CORNERS = ["behind the door", "under the table", "in the cupboard", "behind the curtain", "under the bed",
           "in a corner", "behind the stove", "under the stairs"]  # fmt: skip
FEARS = ["the dark", "thunder", "deep water", "high places", "loud noises", "spiders", "the old well", "big waves"]
TRAPS = ["a thorny bush", "a deep hole", "a net", "the thick mud", "a hollow tree", "a wire fence"]
TOOLS = ["a long stick", "a strong rope", "a wooden board", "a small shovel", "a pair of scissors", "a garden rake"]
PLANTS = ["sunflower", "rose", "pumpkin", "tulip", "bean", "apple tree", "daisy", "strawberry plant"]
LEAD = ["butterfly", "bird", "dragonfly", "firefly", "moth", "beetle", "bee"]
SIGNS = ["the white stones", "the tall tower", "the sound of the stream", "the evening star", "the smell of bread"]
BUILDS = ["sand castle", "tree house", "snow fort", "raft", "tower of blocks", "little cart"]

SYLLABLES = """ba bel bri da del dun el fa fi fre ga gre gus ha hal hec is jas jul ka kel kri la len lo lu ma mag mar
mi mo na ni nor o os pa pen pi qui ra ral ri ro sa san se syl ta thi ti to tor u ul va ver vi wa wil win xa yo zel zi
zu""".split()
ONSETS = "b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kn kr l m n p ph pl pr qu r s sc sh sk sl sm sn sp st str sw t th tr tw v w wh y z".split()
VOWELS = "a a e e i i o o u y ai ee ei ia ie oa oo ou ue".split()
CODAS = "b ck d f g k l ld ll lt m mp n nd ng nt p r rd rk rn rt s sh sk ss st t th tt x z".split() + [""] * 20
RUDE = re.compile("anus|ass|cock|coon|cum|cunt|damn|dick|fag|fuck|hell|hitl|homo|jap|kik|kill|nazi|nig|pee|peni|piss|poo|"
                  "porn|pus|rape|sex|shit|slut|spic|tit|twat|whor")  # fmt: skip
GENERATORS = ["words", "plots", "stories", "people", "talk", "sums", "documents"]
GIRL_ENDINGS = "la na lia ri mi sa belle ta ne tte dy ra thea sha cy lyn".split()
BOY_ENDINGS = "lo ko mus ren do bert dan rik per nus ton ric fus ley tor vin".split()


def is_held_out(*key: object, share: float = 0.1) -> bool:
    """Whether a combination belongs to the tests, as such a share of all does, whatever the seed."""
    return sha256(repr(key).encode()).digest()[0] < 256 * share


def invented_word(rng: Random) -> str:
    """A word of one or two syllables."""
    n_syllables = rng.choice([1, 2, 2])

    def syllable() -> str:
        return rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS)

    return decent(lambda: "".join(syllable() for _ in range(n_syllables)))


def invented_syllables(rng: Random, is_girl: bool) -> str:
    """A name by whose end one knows a girl from a boy."""
    endings = GIRL_ENDINGS if is_girl else BOY_ENDINGS
    return decent(lambda: rng.choice(SYLLABLES) + rng.choice(["", "", rng.choice(SYLLABLES)]) + rng.choice(endings))


def decent(draw: Callable[[], str]) -> str:
    """The first word drawn that no document has otherwise, and that has nothing rude in it."""
    while RUDE.search(word := draw()) or word in written_words():
        pass
    return word


@cache
def written_words() -> set[str]:
    """Every word of every list and template, read off the sources."""
    sources = (Path(__file__).with_name(f"{name}.py") for name in GENERATORS)
    return set(re.findall(r"[a-z]+", " ".join(source.read_text() for source in sources).lower()))


@dataclass(frozen=True)
class Words:
    """The words of one split."""

    held_out: bool
    girls: list[str]
    boys: list[str]
    animals: list[str]
    objects: list[str]
    foods: list[str]
    dishes: list[str]
    places: dict[str, str]

    @property
    def fragile(self) -> list[str]:
        """Things that break when they fall, as one that nobody knows may."""
        return [thing for thing in self.objects if thing in FRAGILE or thing not in KNOWN_WORDS]

    @property
    def crafts(self) -> list[str]:
        """Things that can be made of paper, cloth or wood, as one that nobody knows may be."""
        return [thing for thing in self.objects if thing in CRAFTS or thing not in KNOWN_WORDS]

    def with_unheard_of(self, rng: Random, *lists: str) -> "Words":
        """The same split, each of these lists replaced by invented words half of the time."""
        return replace(self, **{name: self.unheard_of(rng, name) for name in lists if rng.random() < 0.5})

    def unheard_of(self, rng: Random, name: str) -> list[str] | dict[str, str]:
        """Three invented words in the place of a list; places with their prepositions."""
        invented = [self.invented_thing(rng) for _ in range(3)]
        return {place: rng.choice(PREPOSITIONS) for place in invented} if name == "places" else invented

    def name(self, rng: Random, is_girl: bool | None = None) -> str:
        """Somebody's name, of a girl or boy where nothing is said."""
        is_girl = rng.random() < 0.5 if is_girl is None else is_girl
        if rng.random() < 0.45:
            return self.invented_name(rng, is_girl)
        return rng.choice(self.girls if is_girl else self.boys)

    def invented_name(self, rng: Random, is_girl: bool) -> str:
        """A name that few documents share, so that names have to be copied rather than known."""
        while True:
            name = invented_word(rng) if rng.random() < 0.6 else invented_syllables(rng, is_girl)
            name = name.capitalize()
            if is_held_out("name", name) == self.held_out:
                return name

    def invented_thing(self, rng: Random) -> str:
        """A word that few documents share, for a thing, animal, food or place."""
        while True:
            word = invented_word(rng)
            if is_held_out("thing", word) == self.held_out:
                return word

    def allows_sum(self, operation: str, a: int, b: int) -> bool:
        """Whether this split may calculate with two numbers, in either order."""
        share = 0.2 if max(a, b) < 10 else 0.1
        return is_held_out(operation, min(a, b), max(a, b), share=share) == self.held_out


TRAIN = Words(False, GIRLS, BOYS, ANIMALS, OBJECTS, FOODS, DISHES, PLACES)
HELD_OUT = Words(True, HELD_OUT_GIRLS, HELD_OUT_BOYS, HELD_OUT_ANIMALS, HELD_OUT_OBJECTS, HELD_OUT_FOODS,
                 HELD_OUT_DISHES, HELD_OUT_PLACES)  # fmt: skip


def held_out_words() -> set[str]:
    """The words that no training document may have."""
    words = HELD_OUT
    held_out = [*words.girls, *words.boys, *words.animals, *words.objects, *words.foods, *words.places]
    return {word.lower() for word in held_out}
