"""Messages stored small, and read back byte for byte (spec 2.7).

A stored message is a frame: one octet with the number of encoded files in it, for each its place and its
number (two 32-bit words, big endian), then the rest of the message as zstd against the mail job's dictionary, without
the four octets that every zstd frame begins with.
So an attachment of a megabyte costs eight octets, and a newsletter some dozens.

Instead of a number the first octet may say that there is no encoded file, and what a look at the message's lines found.
The checksum in the frame tells that it is the message that was looked at.
"""

from __future__ import annotations

import struct

import zstandard

from mail_orchestration.composition import dictionary as dictionaries
from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.kernel.message_lines import Lines, look_at_lines

MAXIMUM_MESSAGE_OCTETS = 100_000_000
_LOOKED_AT = {Lines.FIT: 254, Lines.PLAIN: 255}
"""What the first octet may say instead of a number."""
_LINES = {octet: lines for lines, octet in _LOOKED_AT.items()}
_MOST_FILES = min(_LINES) - 1
_PLACE = struct.Struct(">II")
_MAGIC = zstandard.FRAME_HEADER
"""What each zstd frame begins with. We know what ours are."""


class BadStoredMessage(BadInput):
    """The stored message cannot be read with this dictionary."""


def lines_of(stored: bytes) -> Lines:
    """What was found of the message's lines when it was stored."""
    return _LINES.get(stored[0], Lines.UNSEEN)


class Compressor:
    """Compresses and decompresses the messages of one mail job. Not for several threads at once.

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

    def compress(self, data: bytes) -> bytes:
        """`data` as it is stored."""
        places: list[bytes] = []
        rest: list[bytes] = []
        position = 0
        # In the order in which the composer writes them; what is missed costs space, never correctness.
        for number, blob in enumerate(self._blobs[:_MOST_FILES]):
            found = data.find(blob, position)
            if found >= 0:
                places.append(_PLACE.pack(found, number))
                rest.append(data[position:found])
                position = found + len(blob)
        if not places and (lines := look_at_lines(data)) is not Lines.UNSEEN:
            return bytes([_LOOKED_AT[lines]]) + self._compress(data)
        rest.append(data[position:])
        return b"".join((bytes([len(places)]), *places, self._compress(b"".join(rest))))

    def _compress(self, data: bytes) -> bytes:
        return self._compressor.compress(data)[len(_MAGIC) :]

    def _decompress(self, frame: bytes) -> bytes:
        return self._decompressor.decompress(_MAGIC + frame, max_output_size=MAXIMUM_MESSAGE_OCTETS)

    def decompress(self, stored: bytes) -> bytes:
        """What `compress` was given. Raises `BadStoredMessage`."""
        try:
            if stored[0] in _LINES:
                return self._decompress(stored[1:])
            start = 1 + stored[0] * _PLACE.size
            rest = self._decompress(stored[start:])
            pieces: list[bytes] = []
            position = length = 0
            for place, number in _PLACE.iter_unpack(stored[1:start]):
                before = rest[position : position + place - length]
                position += len(before)
                pieces += (before, self._blobs[number])
                length += len(before) + len(self._blobs[number])
        except (zstandard.ZstdError, struct.error, IndexError):
            raise BadStoredMessage from None
        return b"".join((*pieces, rest[position:]))
