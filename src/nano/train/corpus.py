"""Makes the training and held-out corpora from a seed, and counts how rich they are.

    python corpus.py --out DIR [--seed 1] [--tokens 90000000] [--train-tokenizer]

DIR/tokenizer.json    the embedded model's, or a new one that is trained on the training split alone
DIR/train.bin         documents as little-endian 16-bit token ids, each ended by <|endoftext|> (id 0)
DIR/heldout.bin       the same from names, animals, things, places and pairs of numbers that training never sees (but for
                      a few of the invented words)
DIR/statistics.json   counts of documents, sentences and n-grams
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from documents import SPECIAL_TOKENS, document
from words import HELD_OUT, TRAIN, Words, held_out_words

MODEL = Path(__file__).parents[1] / "model"
VOCAB_SIZE = 2048
PIECES = 700  # of the vocabulary, besides the bytes; the rest are whole words
TOKENIZER_DOCUMENTS = 40_000
COUNTED_DOCUMENTS = 50_000
HELD_OUT_TOKENS = 200_000
BATCH = 2_000


def documents(seed: str, words: Words) -> Iterator[str]:
    """An endless stream of documents."""
    rng = Random(seed)
    while True:
        yield document(rng, words)


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Byte-level BPE: every text round-trips, and every digit is a token.

    The pieces of words are learned from the distinct words, each counted once, so that every piece belongs to many words
    and is copied wherever a new word has it. The commonest words are tokens as they are, and no pieces of others.
    """
    pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    decoder = decoders.ByteLevel()
    words = count_words(texts, pre_tokenizer)
    special = [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=len(special) + len(alphabet) + PIECES, special_tokens=special,
                                  show_progress=False, initial_alphabet=alphabet)  # fmt: skip
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizer
    pieces.train_from_iterator((decoder.decode([word]) for word in words), trainer)

    model = json.loads(pieces.to_str())["model"]
    vocab = model["vocab"]
    for word, _ in words.most_common():
        if len(vocab) < VOCAB_SIZE:
            vocab.setdefault(word, len(vocab))
    tokenizer = Tokenizer(models.BPE(vocab, [tuple(pair) for pair in model["merges"]], ignore_merges=True))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    tokenizer.add_special_tokens(special)
    return tokenizer


def count_words(texts: list[str], pre_tokenizer: pre_tokenizers.PreTokenizer) -> Counter[str]:
    """How often each word is there, with the space before it, as the tokenizer sees it."""
    special = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
    parts = (part for text in texts for part in special.split(text))
    return Counter(word for part in parts for word, _ in pre_tokenizer.pre_tokenize_str(part))


def write_tokens(path: Path, tokenizer: Tokenizer, texts: Iterator[str], n_tokens: int) -> int:
    """Writes whole documents until there are enough tokens; returns how many documents that took."""
    written = n_documents = 0
    with path.open("wb") as file:
        while written < n_tokens:
            batch = list(islice(texts, BATCH))
            ids = np.concatenate([encoding.ids for encoding in tokenizer.encode_batch_fast(batch)])
            file.write(ids.astype("<u2").tobytes())
            written += len(ids)
            n_documents += len(batch)
    return n_documents


def statistics(texts: Iterator[str]) -> dict[str, float]:
    """How many sentences and n-grams of words there are, and how many of them are distinct."""
    sentences, distinct_sentences, n_grams = 0, set(), {n: [0, set()] for n in (3, 5, 8)}
    for text in islice(texts, COUNTED_DOCUMENTS):
        parts = [part for part in re.split(r"(?<=[.!?])[\"\s]+|<\|\w+\|>", text) if part]
        sentences += len(parts)
        distinct_sentences.update(parts)
        words = text.split()
        for n, counted in n_grams.items():
            grams = [hash(tuple(words[at : at + n])) for at in range(len(words) - n + 1)]
            counted[0] += len(grams)
            counted[1].update(grams)
    counts = {"documents": COUNTED_DOCUMENTS, "sentences": sentences, "distinct_sentences": len(distinct_sentences)}
    for n, (total, distinct) in n_grams.items():
        counts |= {f"{n}_grams": total, f"distinct_{n}_grams": len(distinct)}
    return counts


def training_documents(seed: int) -> Iterator[str]:
    """The training split; stops where a held-out word is in a document."""
    forbidden = held_out_words()
    for text in documents(f"train {seed}", TRAIN):
        leaked = forbidden.intersection(re.findall(r"[a-z]+", text.lower()))
        if leaked:
            raise SystemExit(f"held-out words in a training document: {sorted(leaked)}")
        yield text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=90_000_000)
    parser.add_argument("--train-tokenizer", action="store_true", help="make a new one for a new model")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    if args.train_tokenizer:
        tokenizer = train_tokenizer(list(islice(training_documents(args.seed), TOKENIZER_DOCUMENTS)))
    else:
        tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokenizer.save(str(args.out / "tokenizer.json"))
    held_out_texts = documents(f"held out {args.seed}", HELD_OUT)
    write_tokens(args.out / "heldout.bin", tokenizer, held_out_texts, HELD_OUT_TOKENS)
    counts = statistics(training_documents(args.seed))
    texts = training_documents(args.seed)
    counts["training_documents"] = write_tokens(args.out / "train.bin", tokenizer, texts, args.tokens)
    (args.out / "statistics.json").write_text(json.dumps(counts, indent=2) + "\n")
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
