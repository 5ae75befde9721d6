import numpy as np
import pytest

from mav import policy
from mav.data import filters
from mav.data.decode import Clip
from mav.data.readers import Record


def subject(caption="a dog", width=100, height=100, clip=None, **scores):
    return filters.Subject(Record("1", {}, b"", caption, None, scores), width, height, clip)


def clip(count, length, motion=9.0):
    return Clip([b""] * count, 0.0, np.linspace(0, length, count), motion, 0)


@pytest.mark.parametrize(
    ("name", "limit", "kept", "dropped", "unjudged"),
    [
        ("size", 64, subject(width=64), subject(height=63), None),
        ("aspect", 3.0, subject(width=300), subject(height=301), None),
        ("nsfw", 0.5, subject(nsfw=0.5), subject(nsfw=0.51), subject()),
        ("nsfw", 0.5, subject(nsfw="UNLIKELY"), subject(nsfw="NSFW"), subject(nsfw=float("nan"))),
        ("nsfw", 0.5, subject(nsfw="0.4"), subject(nsfw="UNSURE"), subject()),
        ("watermark", 0.5, subject(watermark=0.5), subject(watermark=0.6), subject()),
        ("toxic", 0, subject("a dog"), subject("Porn!"), subject(None)),
        ("language", "en", subject(language="en"), subject(language="de"), subject(None)),
        ("seconds", 1.0, subject(clip=clip(9, 1.0)), subject(clip=clip(9, 0.9)), None),
        ("seconds", 1.0, subject(clip=clip(8, 9.0)), subject(clip=clip(7, 9.0)), None),
        ("motion", 2.0, subject(clip=clip(9, 1, 2.0)), subject(clip=clip(9, 1, 1.9)), None),
    ],
)
def test_limits_hold_and_absent_scores_are_told(name, limit, kept, dropped, unjudged):
    table = {**filters.BEFORE_DECODING, **filters.AFTER_DECODING}
    assert table[name](kept, limit) == ""
    assert table[name](dropped, limit)
    if unjudged is not None:
        assert table[name](unjudged, limit) is None


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("hardcore porn video", ["porn"]),
        ("Doggy-Style on a beach", ["doggy style"]),
        ("ein Haufen Scheiße", ["scheiße"]),
        ("какое дерьмо", ["дерьмо"]),
        ("这个傻逼在这里", ["傻逼"]),
        ("a classic bass player from Scunthorpe assesses a cockatoo", []),
        ("an asian woman, a black dog and a gun", []),
        ("a fan on a table", []),  # Swedish
        ("", []),
    ],
)
def test_toxic_words_are_whole_words_of_several_scripts(caption, found):
    assert set(found) <= set(policy.toxic_words(caption))
    assert bool(found) == bool(policy.toxic_words(caption))


@pytest.mark.parametrize(
    ("caption", "english"),
    [
        ("a small red ball over a green meadow", True),
        ("a dog", True),
        ("Stock footage of a timelapse", True),
        ("ein kleiner roter Ball auf einer grünen Wiese mit vielen Blumen", False),
        ("un petit chat noir qui dort sur le canapé du salon", False),
        ("маленькая девочка читает книгу в большом городском парке", False),
    ],
)
def test_language_of_captions_without_a_tag(caption, english):
    assert (filters.language(subject(caption), "en") == "") == english


def near_by_pairs(hashes, distance):
    """The same by looking at all pairs."""
    near = [
        any((int(a) ^ int(b)).bit_count() <= distance for b in hashes[:i])
        for i, a in enumerate(hashes)
    ]
    return np.array(near, bool)


@pytest.mark.parametrize("at_once", [2**24, 40])
@pytest.mark.parametrize("distance", [0, 1, 3])
def test_near_duplicates_are_those_of_all_pairs(distance, at_once):
    rng = np.random.default_rng(0)
    hashes = rng.integers(2**64, size=300, dtype=np.uint64)
    for i in range(100, 300):  # copies with up to 5 bits flipped
        hashes[i] = hashes[rng.integers(i)] if i % 4 else hashes[i]
        for bit in rng.integers(64, size=rng.integers(6)):
            hashes[i] ^= np.uint64(1) << np.uint64(bit)
    parts = np.split(hashes, [50, 50, 170])  # one is empty
    found = filters.near_duplicates(parts, distance, at_once)
    assert [len(part) for part in found] == [50, 0, 120, 130]
    wanted = near_by_pairs(hashes, distance)
    np.testing.assert_array_equal(np.concatenate(found), wanted)
    assert 10 < wanted.sum() < 290


def test_filters_are_named_with_their_limits():
    assert filters.parse("images", None, 256)[0]["size"] == 256
    assert filters.parse("images", "none", 64) == (dict(size=64), True)
    wanted = dict(nsfw=0.3, watermark=0.5, size=64)
    assert filters.parse("images", "nsfw=0.3, watermark", 64) == (wanted, True)
    assert filters.parse("videos", "size=100", 64) == (dict(size=100, seconds=0.0), True)
    with pytest.raises(ValueError, match=r"'motion' is unknown for images; choose size, aspect"):
        filters.parse("images", "motion", 64)
    with pytest.raises(ValueError, match=r"nsfw='high' is not of type float"):
        filters.parse("images", "nsfw=high", 64)
    with pytest.raises(ValueError, match=r"duplicates=4 is outside 0\.\.3"):
        filters.near_duplicates([], 4)
