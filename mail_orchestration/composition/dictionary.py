"""What a mail job's stored messages are compressed against: its text and its files (spec 2.7).

One value, kept with the mail job, from which every message of it can be read back without the campaign, its
templates or this version of the software. Layout: `MOD2`, then length (32 bits, big endian) and octets of the
text and of each encoded file in turn. The text has the tables of a zstd dictionary before it (RFC 8878 §5), where there
were messages to make them from: a message of some hundred octets cannot afford to bring its own.
"""

from __future__ import annotations

import random
import re
import string
import struct
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import zstandard
from jinja2 import ChainableUndefined, nodes

from mail_orchestration.composition.templates import CampaignEnvironment, parse_template
from mail_orchestration.kernel.errors import BadCampaign, BadInput

LEVEL = 3
"""Of zstd. Level 6 saves one octet in seventy and takes three times as long."""
MAXIMUM_TEXT_OCTETS = 120 * 1024
"""With a message's own 128 KB below 2^18: zstd takes tables that name each distance that can be, and these do."""
MINIMUM_BLOB_OCTETS = 256
_LONGEST_SAMPLE = 24 * 1024
_SAMPLES_IN_TEXT = 8
_DIGIT = re.compile(r"\d")
_SCHEME = re.compile(r"https?://|mailto:", re.IGNORECASE)
_MAGIC = b"MOD2"
_FIRST_DISTANCES = struct.pack("<3I", 1, 4, 8)
"""The end of a zstd dictionary's tables: three distances, always these where zstd makes them."""


class Imagined(ChainableUndefined):
    """A value that nobody has given yet: prints nothing, is true, and has two items like itself.

    As a number it is one, and whatever it is compared with, that is so: a template comes to its end with it.
    """

    def __iter__(self) -> Iterator[Imagined]:
        yield from (self, self)

    def __bool__(self) -> bool:
        return True

    def __len__(self) -> int:
        return 2

    def __int__(self) -> int:  # type: ignore[override]
        return 1

    def __float__(self) -> float:  # type: ignore[override]
        return 1.0

    def _is_so(self, other: object) -> bool:
        return True

    __lt__ = __le__ = __gt__ = __ge__ = _is_so  # type: ignore[assignment]


def alike(value: Any, chance: random.Random) -> Any:
    """What is as long as `value`, and breaks its line in the same places, and says nothing of anybody."""
    match value:
        case bool() | None:
            return value
        case int() | float():
            return type(value)(_DIGIT.sub(lambda _: chance.choice("123456789"), str(value)))
        case str():
            scheme = _SCHEME.match(value)
            start = scheme[0] if scheme else ""  # a template refuses links of any other
            return start + "".join([_nobodys(each, chance) for each in value[len(start) :]])
        case _:
            return Imagined()


def _nobodys(character: str, chance: random.Random) -> str:
    if character.isdecimal():
        return chance.choice(string.digits)
    # Marks too: the vowels of a name in Hindi or Thai are among them.
    if unicodedata.category(character)[0] not in "LMN":
        return character
    return chance.choice(string.ascii_lowercase) if character.isascii() else "é"


class BadDictionary(BadInput):
    """These octets are no dictionary of a mail job, or one of another layout."""


def build(*, text: bytes, samples: Iterable[bytes] = (), blobs: Sequence[bytes] = ()) -> bytes:
    """The dictionary of what templates say, of `samples` (messages) and of `blobs` (parts the same in all).

    Text and samples are without the blobs of `MINIMUM_BLOB_OCTETS` and more. Of each sample some is kept, not all.
    """
    text = text[: MAXIMUM_TEXT_OCTETS // 2]
    starts: list[bytes] = []
    last: deque[bytes] = deque(maxlen=_SAMPLES_IN_TEXT)
    for each in samples:
        starts.append(each[:_LONGEST_SAMPLE])
        last.append(each[-MAXIMUM_TEXT_OCTETS:])
    near = b"".join(last)[len(text) - MAXIMUM_TEXT_OCTETS :]
    kept = [blob for blob in dict.fromkeys(blobs) if len(blob) >= MINIMUM_BLOB_OCTETS]
    pieces = [_tables(starts) + text + near, *kept]
    return b"".join((_MAGIC, *(part for piece in pieces for part in (struct.pack(">I", len(piece)), piece))))


def _tables(samples: Sequence[bytes]) -> bytes:
    """How often messages like these have which octet, length and distance, once zstd has compressed them; or nothing.

    They are those of a dictionary that zstd has trained. Its text, some of the samples, gives way to ours.
    """
    longest = max(map(len, samples), default=0)
    try:
        # Whole messages as segments, and not of all samples: the others then show how a message differs from them.
        trained = zstandard.train_dictionary(
            4 * longest + 1024, list(samples), k=longest, d=8, level=LEVEL, steps=0, threads=0
        ).as_bytes()
    except (zstandard.ZstdError, ValueError):  # too few samples, or too short ones
        return b""
    end = trained.find(_FIRST_DISTANCES)
    return trained[: end + len(_FIRST_DISTANCES)] if end > 0 else b""


def parts(dictionary: bytes) -> tuple[bytes, list[bytes]]:
    """The text and the blobs. Raises `BadDictionary`."""
    if not dictionary.startswith(_MAGIC):
        raise BadDictionary
    pieces, position = [], len(_MAGIC)
    while position < len(dictionary):
        if position + 4 > len(dictionary):
            raise BadDictionary
        (size,) = struct.unpack_from(">I", dictionary, position)
        piece = dictionary[position + 4 : position + 4 + size]
        if len(piece) != size:
            raise BadDictionary
        pieces.append(piece)
        position += 4 + size
    if not pieces:
        raise BadDictionary
    return pieces[0], pieces[1:]


def literal_text(environment: CampaignEnvironment, files: Mapping[str, bytes], *, html: bool) -> str:
    """What the templates say by themselves: every branch once, every loop once, nothing evaluated."""
    texts = []
    for path, content in sorted(
        files.items(), key=lambda each: each[0].rpartition("/")[2].startswith("message.")
    ):
        if not path.endswith(".j2") or path.endswith(".html.j2") is not html:
            continue
        try:
            tree = parse_template(environment, path, content.decode("utf-8-sig"))
        except BadCampaign:
            continue
        texts.append("".join(node.data for node in tree.find_all(nodes.TemplateData)))
    return "\n".join(texts)
