"""What can go wrong between us and a relay. A reply is data, never raised; these are broken conversations."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mail_orchestration.kernel.errors import Unavailable

if TYPE_CHECKING:
    from mail_orchestration.egress.reply import Reply

_ADDRESS = re.compile(
    r"""(?:"[^"]*"|(?<![^\s<>,;:()\[\]"])[^\s<>,;:()\[\]"]+)  # a local part, quoted or not
    @(?:\[[^\]\s]*\]|[^\s<>,;()\[\]"']+)  # a domain, or an address literal
    """,
    re.VERBOSE,
)
# A word is tried from its beginning only: from each of its letters, one of 50,000 held up all connections for 20 s.


class ConversationBroken(Unavailable):
    """The connection was lost, fell silent, or the relay spoke no SMTP."""


class MalformedReply(ConversationBroken):
    """The relay's answer is no SMTP reply (RFC 5321 §4.2)."""


class RelayUnusable(Unavailable):
    """No session can be set up with the relay now: the message says why, and no mail is to blame."""

    def __init__(self, message: str, reply: Reply | None = None) -> None:
        super().__init__(message)
        self.reply = reply
        """What the relay said instead of setting it up."""


def without_addresses(text: str) -> str:
    """`text` fit for logs and errors: what looks like an address is blotted out; 200 characters at most."""
    return _ADDRESS.sub("<address>", text)[:200]
