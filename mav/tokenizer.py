"""Byte-pair tokenizer of CLIP's text tower, on Hugging Face's `tokenizers`."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable

import numpy as np
import tokenizers
from etils import epath
from jaxtyping import Int

from mav import params as params_lib

START, END = "<|startoftext|>", "<|endoftext|>"


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Text to ids: start token, byte pairs of the lower-cased text, end token, padding.

    bpe: read from a `tokenizer.json`. max_tokens: length of every row of ids. padding: id that
    fills rows up (0 for Karlo; the end token's id for CLIP as OpenAI and Stable Diffusion use it).
    """

    bpe: tokenizers.Tokenizer
    max_tokens: int
    padding: int

    @classmethod
    def load(cls, path: str | pathlib.Path, max_tokens: int, padding: int = 0) -> "Tokenizer":
        """Reads a `tokenizer.json`. Raises ValueError if the file is none, or not one of CLIP's."""
        try:
            bpe = tokenizers.Tokenizer.from_str(epath.Path(path).read_text(encoding="utf-8"))
        except OSError:
            raise
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{path} is no tokenizer.json: {error}.") from error
        missing = [token for token in (START, END) if bpe.token_to_id(token) is None]
        if missing:
            raise ValueError(f"{path} is no tokenizer of CLIP; it lacks {', '.join(missing)}.")
        return cls(bpe, max_tokens, padding)

    def save(self, path: str | pathlib.Path) -> None:
        params_lib.write_text(path, self.bpe.to_str(pretty=True))

    @property
    def end_token(self) -> int:
        return self.bpe.token_to_id(END)

    @property
    def vocabulary_size(self) -> int:
        return self.bpe.get_vocab_size()

    def __call__(self, texts: Iterable[str]) -> Int[np.ndarray, "b n"]:
        """Ids of each text, int32. What exceeds max_tokens is cut off, the end token kept.

        Raises ValueError for text that was no UTF-8 where it came from.
        """
        start = self.bpe.token_to_id(START)
        rows = []
        texts = [_checked(text) for text in texts]
        for encoding in self.bpe.encode_batch(texts, add_special_tokens=False):
            ids = [start, *encoding.ids[: self.max_tokens - 2], self.end_token]
            rows.append(ids + [self.padding] * (self.max_tokens - len(ids)))
        return np.asarray(rows, np.int32)

    def cut(self, text: str) -> str:
        """The end of a text that does not fit into max_tokens; empty if all of it does."""
        encoding = self.bpe.encode(_checked(text), add_special_tokens=False)
        if len(encoding.ids) <= self.max_tokens - 2:
            return ""
        return text[encoding.offsets[self.max_tokens - 2][0] :]


def read_released(folder: str | os.PathLike) -> tokenizers.Tokenizer:
    """The byte pairs of a released CLIP, from a folder as transformers saves it.

    That is `vocab.json` and `merges.txt`, or `tokenizer.json`. A padding token that is not the end
    token, as Karlo's "!", is special wherever it stands in a text, as it is there.
    Raises ValueError if the files are none, or lack the start or end token.
    """
    folder = pathlib.Path(folder)
    try:
        if (folder / "vocab.json").is_file():
            files = [str(folder / name) for name in ("vocab.json", "merges.txt")]
            vocabulary, merges = tokenizers.models.BPE.read_file(*files)
        else:
            model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
            vocabulary, merges = model["vocab"], [tuple(pair) for pair in model["merges"]]
        bpe = _clip_style(
            tokenizers.models.BPE(vocab=vocabulary, merges=merges, end_of_word_suffix="</w>")
        )
    except OSError:
        raise
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{folder} holds no byte pairs of CLIP: {error}.") from error
    missing = [token for token in (START, END) if bpe.token_to_id(token) is None]
    if missing:
        raise ValueError(f"{folder} holds no byte pairs of CLIP; it lacks {', '.join(missing)}.")
    bpe.add_special_tokens([START, END])
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            padding = json.loads((folder / name).read_text(encoding="utf-8")).get("pad_token", END)
            bpe.add_special_tokens([padding["content"] if isinstance(padding, dict) else padding])
    return bpe


def _checked(text: str) -> str:
    """The text. Raises ValueError if it has marks of bytes that were no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError(f"the text {text!r} is not UTF-8; write it in UTF-8.") from None
    return text


def words(text: str) -> list[str]:
    """Lower-case words of a text, without punctuation."""
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def slug(prompt: str) -> str:
    """A file name made of a prompt."""
    return "-".join(words(prompt))[:60] or "video"


def train(texts: Iterable[str], vocabulary_size: int) -> tokenizers.Tokenizer:
    """Learns byte pairs the way CLIP's vocabulary is built: words end in `</w>`, bytes come first.

    The start and end token take the two highest ids, as in CLIP. Unlike there, only the endings
    that occur have an id: a word's last letter is left out where no word of the texts ends with it.
    """
    texts = list(texts)
    bpe = _clip_style(tokenizers.models.BPE(end_of_word_suffix="</w>"))
    pieces = lambda text: bpe.pre_tokenizer.pre_tokenize_str(bpe.normalizer.normalize_str(text))
    endings = sorted({word[-1] for text in texts for word, _ in pieces(text)})
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocabulary_size - 2,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        # Named here, since the trainer would number them in the order of a hash table, and its
        # choice between pairs that are equally frequent follows the numbers.
        special_tokens=[f"{character}</w>" for character in endings],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    bpe = _clip_style(
        tokenizers.models.BPE(vocab=model["vocab"], merges=merges, end_of_word_suffix="</w>")
    )
    bpe.add_special_tokens([START, END])
    return bpe


def _clip_style(model: tokenizers.models.BPE) -> tokenizers.Tokenizer:
    """Normalisation and splitting of text as in CLIP."""
    bpe = tokenizers.Tokenizer(model)
    n, p = tokenizers.normalizers, tokenizers.pre_tokenizers
    bpe.normalizer = n.Sequence([n.NFC(), n.Replace(tokenizers.Regex(r"\s+"), " "), n.Lowercase()])
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    split = p.Split(tokenizers.Regex(pattern), behavior="removed", invert=True)
    bpe.pre_tokenizer = p.Sequence([split, p.ByteLevel(add_prefix_space=False, use_regex=False)])
    return bpe
