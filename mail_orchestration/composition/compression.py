"""Messages stored small, and read back byte for byte (spec 2.7).

Neighbouring messages are stored together, as a block: one zstd frame against the mail job's dictionary, without the
four octets that every zstd frame begins with. In it are the number of messages; for each an octet that says how many
encoded files it has; for each the length of what is left of it without them (32 bits, big endian); for each file its
place in the message and its number in the dictionary (two 32-bit words); then all that is left of the messages, one
behind the other. So an attachment of a megabyte costs eight octets, and a newsletter some dozens.

Instead of a number of files the octet may say that there is none, and what a look at the message's lines found. The
frame's checksum tells that these are the messages that were looked at.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import zstandard

from mail_orchestration.composition import dictionary as dictionaries
from mail_orchestration.composition.errors import BadStoredMessage
from mail_orchestration.kernel.message_lines import Lines, look_at_lines

MOST_MESSAGES = 64
"""In a block. Fewer cost octets: those of 32 newsletters fit PostgreSQL's pages so badly that a quarter stays empty."""
MOST_OCTETS = 1024 * 1024
"""Of a block's messages without their files, unless it is a single larger one."""
MAXIMUM_BLOCK_OCTETS = 100_000_000 + MOST_OCTETS
_LOOKED_AT = {Lines.FIT: 254, Lines.PLAIN: 255}
"""What a message's octet may say instead of a number."""
_LINES = {octet: lines for lines, octet in _LOOKED_AT.items()}
_MOST_FILES = min(_LINES) - 1
_PLACE = struct.Struct(">II")
_MAGIC = zstandard.FRAME_HEADER
"""What each zstd frame begins with. We know what ours are."""


class Cut(NamedTuple):
    """A message as it goes into a block."""

    octet: int
    """How many encoded files it has, or what was found of its lines."""
    places: bytes
    rest: bytes
    """It without them."""
    size: int
    """Octets of the whole."""


class Compressor:
    """Compresses and decompresses the messages of one mail job. Not for several threads at once.

    Keeps the block that was read last at hand until its last message was read: its neighbours mostly come next.
    `dictionary` is what `imagined.make_dictionary` gave. Raises `BadDictionary`.
    """

    def __init__(self, dictionary: bytes) -> None:
        text, self._blobs = dictionaries.parts(dictionary)
        try:
            # With tables before the text, or without.
            made = zstandard.ZstdCompressionDict(text or b" " * 8, dict_type=zstandard.DICT_TYPE_AUTO)
            made.precompute_compress(level=dictionaries.LEVEL)
            self._compressor = zstandard.ZstdCompressor(
                level=dictionaries.LEVEL,
                dict_data=made,
                write_content_size=True,
                write_checksum=True,
                write_dict_id=False,
            )
            self._decompressor = zstandard.ZstdDecompressor(dict_data=made)
        except zstandard.ZstdError:
            raise dictionaries.BadDictionary from None
        self._at_hand = _NOTHING

    def cut(self, message: bytes, fit_from: int | None = None) -> Cut:
        """A message, looked at (`fit_from` as in `look_at_lines`) and without its files."""
        places: list[bytes] = []
        rest: list[bytes] = []
        position = 0
        # In the order in which the composer writes them; what is missed costs space, never correctness.
        for number, blob in enumerate(self._blobs[:_MOST_FILES]):
            found = message.find(blob, position)
            if found >= 0:
                places.append(_PLACE.pack(found, number))
                rest.append(message[position:found])
                position = found + len(blob)
        if not places:
            return Cut(_LOOKED_AT.get(look_at_lines(message, fit_from), 0), b"", message, len(message))
        rest.append(message[position:])
        return Cut(len(places), b"".join(places), b"".join(rest), len(message))

    def pack(self, cuts: Sequence[Cut]) -> bytes:
        """These messages as a block: at least one, at most MOST_MESSAGES."""
        octets, places, rests, _ = zip(*cuts, strict=True)
        head = struct.pack(f">B{len(cuts)}B{len(cuts)}I", len(cuts), *octets, *map(len, rests))
        return self._compressor.compress(b"".join((head, *places, *rests)))[len(_MAGIC) :]

    def compress(self, messages: Sequence[bytes]) -> bytes:
        """Messages as a block."""
        return self.pack([self.cut(each) for each in messages])

    def read(self, block: bytes, place: int = 0) -> tuple[bytes, Lines]:
        """The message at `place` (from 0 on) of a block, and what was found of its lines when it was stored.

        Raises `BadStoredMessage`.
        """
        found = self._at_hand
        if found.block != block:
            found = self._opened(block)
        if not 0 <= place < len(found.octets):
            raise BadStoredMessage
        # Its last message is read: nothing more is wanted of it.
        self._at_hand = found if place + 1 < len(found.octets) else _NOTHING
        places = found.content[found.places[place] : found.places[place + 1]]
        rest = found.content[found.rests[place] : found.rests[place + 1]]
        if not places:
            return rest, _LINES.get(found.octets[place], Lines.UNSEEN)
        return self._with_files(places, rest), Lines.UNSEEN

    def _opened(self, block: bytes) -> _Opened:
        frame = _MAGIC + block
        try:
            # What the frame says of itself is what the library makes room for.
            if zstandard.frame_content_size(frame) > MAXIMUM_BLOCK_OCTETS:
                raise BadStoredMessage
            content = self._decompressor.decompress(frame, max_output_size=MAXIMUM_BLOCK_OCTETS)
            count = content[0]
            head = struct.unpack_from(f">{count}B{count}I", content, 1)
        except (zstandard.ZstdError, struct.error, IndexError):
            raise BadStoredMessage from None
        octets, lengths = head[:count], head[count:]
        of_files = [0 if octet in _LINES else octet * _PLACE.size for octet in octets]
        places = list(accumulate(of_files, initial=1 + 5 * count))
        rests = list(accumulate(lengths, initial=places[-1]))
        return _Opened(block, content, octets, places, rests)

    def _with_files(self, places: bytes, rest: bytes) -> bytes:
        pieces: list[bytes] = []
        position = length = 0
        for start, number in _PLACE.iter_unpack(places):
            if number >= len(self._blobs):
                raise BadStoredMessage
            before = rest[position : position + start - length]
            position += len(before)
            pieces += (before, self._blobs[number])
            length += len(before) + len(self._blobs[number])
        return b"".join((*pieces, rest[position:]))


class _Opened(NamedTuple):
    """A block, its content, and of each message the octet, and where the places of its files and its rest begin in it.

    Where they begin is where those of the message before end, so there is one more of each.
    """

    block: bytes
    content: bytes
    octets: tuple[int, ...]
    places: list[int]
    rests: list[int]


_NOTHING = _Opened(b"", b"", (), [], [])


class Packer:
    """Gathers messages, one after the other, into blocks of at most `most`, or MOST_OCTETS."""

    def __init__(self, compressor: Compressor, most: int = MOST_MESSAGES) -> None:
        self._compressor, self._most = compressor, most
        self._cuts: list[Cut] = []
        self._octets = 0
        self._blocks: list[bytes] = []

    def add(self, cut: Cut) -> int:
        """The place in its block, from 0 on, of the message that follows the last one."""
        if self._octets + len(cut.rest) > MOST_OCTETS:
            self._pack()
        place = len(self._cuts)
        self._cuts.append(cut)
        self._octets += len(cut.rest)
        if len(self._cuts) == self._most or self._octets > MOST_OCTETS:
            self._pack()
        return place

    def blocks(self) -> list[bytes]:
        """The blocks of all that was added."""
        self._pack()
        return self._blocks

    def _pack(self) -> None:
        if self._cuts:
            self._blocks.append(self._compressor.pack(self._cuts))
            self._cuts, self._octets = [], 0
