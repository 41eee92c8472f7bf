"""Files of a campaign as MIME parts, encoded once per mail job and the same for everybody (spec 2.5)."""

from __future__ import annotations

import base64
import mimetypes
from dataclasses import dataclass

from mail_orchestration.composition.header_fields import parameter_field

_LINE = 76


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPart:
    """A complete MIME part, ready to stand after a boundary line."""

    header: bytes
    """Its header block with the empty line."""
    body: bytes
    """Base64, with CRLF at the end of every line."""

    @property
    def data(self) -> bytes:
        """Header and body."""
        return self.header + self.body


def attachment_part(name: str, content: bytes, content_type: str | None = None) -> StaticPart:
    """A file to be saved, under `name`, which may be of any script (RFC 2231)."""
    return _part(content, content_type or guess_content_type(name), name, "attachment", None)


def inline_part(cid: str, name: str, content: bytes, content_type: str | None = None) -> StaticPart:
    """An image that the HTML shows with `src="cid:…"` (RFC 2392)."""
    return _part(content, content_type or guess_content_type(name), name, "inline", cid)


def guess_content_type(name: str) -> str:
    """By the file's name. Messages must not be in base64 (RFC 2046 §5.2.1), so they go as octets."""
    guessed, encoding = mimetypes.guess_type(name, strict=True)
    if guessed is None or encoding is not None or guessed.startswith(("message/", "multipart/")):
        return "application/octet-stream"
    return guessed


def _part(content: bytes, content_type: str, name: str, disposition: str, cid: str | None) -> StaticPart:
    parameters = [("name", name)]
    if content_type.startswith("text/") and "charset" not in content_type and _is_utf8(content):
        parameters.insert(0, ("charset", "utf-8"))
    header = parameter_field("Content-Type", content_type, parameters)
    header += parameter_field("Content-Disposition", disposition, [("filename", name)])
    header += b"Content-Transfer-Encoding: base64\r\n"
    if cid is not None:
        header += f"Content-ID: <{cid}>\r\n".encode("ascii")
    return StaticPart(header=header + b"\r\n", body=_base64_lines(content))


def _base64_lines(content: bytes) -> bytes:
    text = base64.b64encode(content)
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    return b"".join(line + b"\r\n" for line in lines)


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
