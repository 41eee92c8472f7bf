"""What a mail job's stored messages are compressed against: its text and its files (spec 2.7).

One value, kept with the mail job, from which every message of it can be read back without the campaign, its
templates or this version of the software. Layout: `MOD1`, then length (32 bits, big endian) and octets of the
text and of each encoded file in turn.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import ChainableUndefined, nodes

from mail_orchestration.composition.templates import CampaignEnvironment, parse_template
from mail_orchestration.kernel.errors import BadCampaign, BadInput

MAXIMUM_TEXT_OCTETS = 128 * 1024
MINIMUM_BLOB_OCTETS = 256
_DIGIT, _LETTER = re.compile(r"\d"), re.compile(r"[^\W\d_]")
_MAGIC = b"MOD1"


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


def shape_of(value: Any) -> Any:
    """What is as long as `value`, and breaks its line in the same places, and says nothing of anybody."""
    match value:
        case bool() | None:
            return value
        case int() | float():
            return type(value)(_DIGIT.sub("1", str(value)))
        case str():
            return _LETTER.sub(lambda found: "x" if found[0].isascii() else "é", _DIGIT.sub("1", value))
        case _:
            return Imagined()


class BadDictionary(BadInput):
    """These octets are no dictionary of a mail job."""


def build(*, samples: Sequence[bytes], blobs: Sequence[bytes]) -> bytes:
    """The dictionary of `samples` (messages, the most typical last) and `blobs` (parts the same in all)."""
    kept = [blob for blob in dict.fromkeys(blobs) if len(blob) >= MINIMUM_BLOB_OCTETS]
    text = b"".join(samples)
    for blob in kept:
        text = text.replace(blob, b"")
    pieces = [text[-MAXIMUM_TEXT_OCTETS:], *kept]
    return _MAGIC + b"".join(struct.pack(">I", len(piece)) + piece for piece in pieces)


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
