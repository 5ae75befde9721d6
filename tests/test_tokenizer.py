import json
import unicodedata

import numpy as np
import pytest
import tokenizers

from mav import tokenizer as tokenizer_lib

TEXTS = ["a red ball over a green meadow", "a blue ball", "the green sea"]
MERGES = ["l o", "lo w</w>", "e r</w>"]


@pytest.fixture(scope="module")
def clip_like(tmp_path_factory):
    """OpenAI's layout by hand: 256 bytes, the same ending a word, merges, start, end."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in printable]
    symbols = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(other))]
    words = [merge.replace(" ", "") for merge in MERGES]
    names = [*symbols, *(s + "</w>" for s in symbols), *words]
    root = tmp_path_factory.mktemp("vocabulary")
    names += [tokenizer_lib.START, tokenizer_lib.END]
    vocabulary = {name: i for i, name in enumerate(names)}
    (root / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (root / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES]), encoding="utf-8")
    bpe = tokenizer_lib.read_released(root)
    return tokenizer_lib.Tokenizer(bpe, max_tokens=12, padding=0)


LO, LOW, ER, START, END = range(512, 517)
LETTER = {letter: ord(letter) - 33 for letter in "abcdefghijklmnopqrstuvwxyz'"}
ENDING = {letter: 256 + ord(letter) - 33 for letter in "abcdefghijklmnopqrstuvwxyz0123456789!"}


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("low", [LOW]),
        ("lower", [LO, LETTER["w"], ER]),
        (" LOW \n\t  Lower! ", [LOW, LO, LETTER["w"], ER, ENDING["!"]]),
        ("lo", [LETTER["l"], ENDING["o"]]),  # "l o" merges inside words only
        ("a12", [ENDING["a"], ENDING["1"], ENDING["2"]]),  # digits stand alone
        ("it's", [LETTER["i"], ENDING["t"], LETTER["'"], ENDING["s"]]),
        ("é", [106 + 0xC3 - 174, 256 + 94 + 0xA9 - 161]),  # two bytes of UTF-8
        (unicodedata.normalize("NFD", "É"), [106 + 0xC3 - 174, 256 + 94 + 0xA9 - 161]),
        ("", []),
    ],
)
def test_clips_vocabulary_gives_the_ids_found_by_hand(clip_like, text, ids):
    row = [START, *ids, END]
    assert clip_like([text]).tolist() == [row + [0] * (12 - len(row))]


def test_rows_have_one_length_and_the_padding_that_was_asked_for(clip_like):
    padded = tokenizer_lib.Tokenizer(clip_like.bpe, 5, padding=END)
    ids = padded(["low", "low low low"])
    assert ids.dtype == np.int32
    assert ids.tolist() == [[START, LOW, END, END, END], [START, LOW, LOW, LOW, END]]


def test_a_long_text_is_cut_before_the_end_token_and_the_rest_is_told(clip_like):
    short = tokenizer_lib.Tokenizer(clip_like.bpe, 5, padding=0)
    text = "LOW  low low LOWER low"
    assert short([text]).tolist() == [[START, LOW, LOW, LOW, END]]
    assert short.cut(text) == "LOWER low"
    assert short.cut("LOW  low low") == ""


def test_a_learned_vocabulary_ends_with_start_and_end():
    tokenizer = tokenizer_lib.Tokenizer(tokenizer_lib.train(TEXTS, 600), 8, 0)
    size = tokenizer.vocabulary_size
    assert 256 < size <= 600
    assert tokenizer.end_token == size - 1
    rows = tokenizer(["a red ball", "a blue ball", "zebras ß 7"])
    assert (rows[:, 0] == size - 2).all()
    words = [row[1 : row.tolist().index(size - 1)].tolist() for row in rows[:2]]
    assert [len(ids) for ids in words] == [3, 3]  # frequent words became one token each
    assert [words[0][i] == words[1][i] for i in range(3)] == [True, False, True]


def test_learning_stops_at_the_size_that_was_asked_for():
    assert tokenizer_lib.train(TEXTS, 270).get_vocab_size() == 270


def test_a_saved_tokenizer_gives_the_same_ids(clip_like, tmp_path):
    clip_like.save(tmp_path / "tokenizer.json")
    loaded = tokenizer_lib.Tokenizer.load(tmp_path / "tokenizer.json", 12)
    texts = ["low lower", "it's É 12"]
    np.testing.assert_array_equal(loaded(texts), clip_like(texts))
    assert loaded.end_token == END


@pytest.mark.parametrize("text", ["", "{}", "<html>", b"\xff\xfe"])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, text):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer"):
        tokenizer_lib.Tokenizer.load(path, 12)


def test_a_tokenizer_without_start_and_end_is_refused(tmp_path):
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"lacks <\|startoftext\|>, <\|endoftext\|>"):
        tokenizer_lib.Tokenizer.load(tmp_path / "tokenizer.json", 12)
