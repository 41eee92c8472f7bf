"""Small campaigns for the tests of composition."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mail_orchestration.composition.composer import Composer
from mail_orchestration.composition.context import MailJobFacts
from mail_orchestration.composition.definition import Campaign, campaign_from_files
from mail_orchestration.kernel.model import BodyFormat, Recipient
from mail_orchestration.kernel.tokens import SigningKeys

EXAMPLE = Path(__file__).parents[2] / "examples" / "campaigns" / "spring-newsletter"

BASICS = """
name: news
subject: Hello
from: "Jörg <joerg@shop.example>"
audiences: [customers]
"""
FACTS = MailJobFacts(
    installation="demo",
    mail_job_id=101,
    released_at=datetime(2026, 11, 1, 9, 30, tzinfo=UTC),
    public_base_url="https://mail.shop.example",
)
KEYS = SigningKeys({"k1": b"0123456789abcdef0123456789abcdef"})


def campaign(
    *, html: str | None = None, text: str | None = None, yaml: str = "", basics: str = BASICS, **files: bytes
) -> Campaign:
    """A campaign of two templates, more lines of YAML, and files by name (`__` for `.`)."""
    contents: dict[str, bytes] = {"campaign.yaml": (basics + yaml).encode()}
    if html is not None:
        contents["message.html.j2"] = html.encode()
    if text is not None:
        contents["message.txt.j2"] = text.encode()
    return campaign_from_files(
        contents | {name.replace("__", "."): content for name, content in files.items()}
    )


def composer(**parts: Any) -> Composer:
    """A composer of `campaign(**parts)`."""
    return Composer(campaign(**parts), FACTS, KEYS)


def recipient(number: int = 1, body_format: BodyFormat | None = None, **attributes: Any) -> Recipient:
    """Recipient `number` with `attributes`."""
    return Recipient(
        recipient_no=number,
        contact_id=number + 1000,
        address=f"user{number}@example.org",
        body_format=body_format,
        attributes=attributes,
    )
