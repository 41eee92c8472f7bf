"""A campaign: its folder, read and validated (spec 2.1).

`campaign.yaml` is the definition; beside it stand `message.html.j2` and/or `message.txt.j2`, other templates
that they include, attachments and inline images. `load_campaign` reads them from disk; `campaign_from_files`
reads the same from what a release has frozen.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from mail_orchestration.composition.definition_parts import (
    AttachmentSpec,
    AttributeName,
    AudienceName,
    Canary,
    ComponentName,
    ContentId,
    FieldName,
    Frequency,
    Line,
    ListId,
    MailboxText,
    RelativePath,
    Schedule,
    Slug,
    Stage,
    Strict,
)
from mail_orchestration.kernel.errors import BadCampaign
from mail_orchestration.kernel.frequency import CampaignPolicy
from mail_orchestration.kernel.model import BodyFormat
from mail_orchestration.kernel.yaml_document import parse_yaml, read_yaml

CAMPAIGN_FILE = "campaign.yaml"
HTML_TEMPLATE = "message.html.j2"
TEXT_TEMPLATE = "message.txt.j2"
MAXIMUM_FILE_OCTETS = 20_000_000
MAXIMUM_CAMPAIGN_OCTETS = 40_000_000
NOT_SAID = frozenset(
    {
        "audiences",
        "exclude",
        "required_attributes",
        "sample_contact",
        "test_addresses",
        "priority",
        "maximum_message_kilobytes",
        "maximum_assembly_failures_percentage",
        "maximum_error_percentage",
        "on_uncertain",
        "canary",
        "transactional",
        "starts_at",
        "expires_at",
        "schedule",
        "frequency",
    }
)
"""Keys of a definition that decide who gets the messages, when and how, and not what they say."""


class CampaignDefinition(Strict):
    """What `campaign.yaml` says. Values marked (template) are Jinja2."""

    name: Slug
    subject: Line
    """(template)"""
    from_: MailboxText = Field(alias="from")
    reply_to: MailboxText | None = None
    to_name: Line | None = None
    """(template) The display name of `To`."""
    envelope_sender: MailboxText | None = None
    """The reverse-path; `bounces@` the installation's bounce domain by default."""
    headers: dict[FieldName, Line] = Field(default_factory=dict)
    """(template) Further header fields."""

    audiences: list[AudienceName] = Field(default_factory=list)
    """None for a campaign of single mails only: a release needs one."""
    exclude: list[AudienceName] = Field(default_factory=list)
    topic: Slug | None = None
    """What a recipient opts out of; None is everything."""
    list_id: ListId | None = None
    """RFC 2919; `<name>.<domain of from>` by default."""
    transactional: bool = False
    """Single mails of it go to those too who opted out; hard bounces, complaints and manual suppressions hold."""
    required_attributes: list[AttributeName] = Field(default_factory=list)
    """A recipient without one of them, or with an empty one, is bypassed (spec 1.4)."""

    body_format: BodyFormat = BodyFormat.MIME
    """For recipients who have none of their own."""
    content_url: Line | None = None
    """(template) The body is this page, fetched per recipient; their own `rcp_url` takes its place."""
    attachments: list[AttachmentSpec] = Field(default_factory=list)
    inline: dict[ContentId, RelativePath] = Field(default_factory=dict)
    """Images that the HTML shows with `src="cid:<key>"`."""
    variables: dict[str, Any] = Field(default_factory=dict)
    """Values given to the templates as they are."""
    sample_contact: dict[str, Any] = Field(default_factory=dict)
    """Attributes of an imagined contact, for `check` and previews."""

    state: Literal["live", "test"] = "live"
    test_addresses: list[MailboxText] = Field(default_factory=list)
    priority: int = Field(default=0, ge=-1000, le=1000)
    maximum_message_kilobytes: int = Field(default=10_000, gt=0, le=50_000)
    maximum_assembly_failures_percentage: float = Field(default=1.0, ge=0, le=100)
    maximum_error_percentage: float = Field(default=25.0, ge=0, le=100, alias="max_error_percentage")
    on_uncertain: Literal["resend", "hold"] = "resend"
    starts_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None
    schedule: Schedule | None = None
    canary: Canary | None = None
    frequency: Frequency = Frequency()
    components: dict[Stage, list[ComponentName]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.state == "test" and not self.test_addresses:
            raise ValueError("state is test, so test_addresses must name somebody")
        if self.starts_at and self.expires_at and self.expires_at <= self.starts_at:
            raise ValueError("expires_at is not after starts_at")
        if both := sorted(set(self.audiences) & set(self.exclude)):
            raise ValueError(f"exclude names {both[0]}, which is one of audiences")
        for name in self.headers:
            if sum(name.lower() == other.lower() for other in self.headers) > 1:
                raise ValueError(f"headers names {name} twice")
        return self

    def expired(self, now: datetime) -> bool:
        """Whether nothing of it is sent any more (spec 3.6)."""
        return self.expires_at is not None and now >= self.expires_at

    @property
    def frequency_of_release(self) -> Frequency:
        """As releases of it go out: in state test outside the frequency policy, and not counted (spec 3.5)."""
        if self.state == "test":
            return Frequency(policy=CampaignPolicy.OVERRIDE_POLICY, count=False)
        return self.frequency

    @property
    def paths(self) -> dict[str, str]:
        """Path of each file that the definition names → the key that names it."""
        named = {each.path: f"attachments[{index}].path" for index, each in enumerate(self.attachments)}
        return named | {path: f"inline.{cid}" for cid, path in self.inline.items()}


@dataclass(frozen=True)
class Campaign:
    """A campaign as a release freezes it: the definition and every file it is made of."""

    definition: CampaignDefinition
    files: Mapping[str, bytes]
    """Relative path with `/` → content."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all paths and contents, in hexadecimal."""
        return _digest(self.files)

    @cached_property
    def content_digest(self) -> str:
        """SHA-256 over what the messages say: whoever got the same gets it twice (spec 6.6)."""
        said = self.definition.model_dump(mode="json", exclude=set(NOT_SAID))
        files = {path: content for path, content in self.files.items() if path != CAMPAIGN_FILE}
        said_as_file = json.dumps(said, sort_keys=True, ensure_ascii=False).encode("utf-8")
        return _digest({**files, CAMPAIGN_FILE: said_as_file})

    @property
    def html_template(self) -> str | None:
        """`message.html.j2`, when there is one."""
        return HTML_TEMPLATE if HTML_TEMPLATE in self.files else None

    @property
    def text_template(self) -> str | None:
        """`message.txt.j2`, when there is one."""
        return TEXT_TEMPLATE if TEXT_TEMPLATE in self.files else None

    def __repr__(self) -> str:
        return f"Campaign({self.definition.name!r}, {len(self.files)} files, {self.digest[:12]})"


def load_campaign(folder: Path) -> Campaign:
    """The campaign in `folder`. Raises `BadCampaign` naming file, line and key, a line per fault."""
    files = {
        CAMPAIGN_FILE: _read(folder, CAMPAIGN_FILE, f"there is no {CAMPAIGN_FILE} in the campaign's folder")
    }
    definition = read_yaml(
        files[CAMPAIGN_FILE], file=CAMPAIGN_FILE, model=CampaignDefinition, error=BadCampaign
    )
    for path, key in definition.paths.items():
        files[path] = _read(
            folder, path, fault_of(files, key, f"there is no file {path} in the campaign's folder")
        )
    for template in sorted(folder.rglob("*.j2")):
        path = template.relative_to(folder).as_posix()
        files[path] = _read(folder, path, f"{path}: cannot be read")
    return campaign_from_files(files)


def campaign_from_files(files: Mapping[str, bytes]) -> Campaign:
    """The campaign made of `files`, with the same validation as `load_campaign`."""
    if CAMPAIGN_FILE not in files:
        raise BadCampaign(f"there is no {CAMPAIGN_FILE} in the campaign's folder")
    definition = read_yaml(
        files[CAMPAIGN_FILE], file=CAMPAIGN_FILE, model=CampaignDefinition, error=BadCampaign
    )
    for path, key in definition.paths.items():
        if path not in files:
            raise BadCampaign(fault_of(files, key, f"there is no file {path} in the campaign's folder"))
    has_template = HTML_TEMPLATE in files or TEXT_TEMPLATE in files
    if definition.content_url is None and not has_template:
        raise BadCampaign(
            f"{CAMPAIGN_FILE}: there is neither {HTML_TEMPLATE} nor {TEXT_TEMPLATE} nor a content_url"
        )
    if definition.content_url is not None and HTML_TEMPLATE in files:
        raise BadCampaign(
            fault_of(files, "content_url", f"the body is a page, and there is {HTML_TEMPLATE} too")
        )
    for path, content in files.items():
        if path.endswith(".j2"):
            _decode(path, content)
    if (total := sum(map(len, files.values()))) > MAXIMUM_CAMPAIGN_OCTETS:
        raise BadCampaign(f"the campaign's files have {total} octets, more than {MAXIMUM_CAMPAIGN_OCTETS}")
    return Campaign(definition, dict(sorted(files.items())))


def _digest(files: Mapping[str, bytes]) -> str:
    sum_ = hashlib.sha256()
    for path, content in sorted(files.items()):
        for each in (path.encode("utf-8"), content):
            sum_.update(struct.pack(">Q", len(each)))
            sum_.update(each)
    return sum_.hexdigest()


def _read(folder: Path, path: str, missing: str) -> bytes:
    found = folder / path
    try:
        # A link that leads out of the folder would mail what its author may not read.
        if not found.resolve(strict=True).is_relative_to(folder.resolve(strict=True)):
            raise BadCampaign(f"{path}: leads out of the campaign's folder")
        if not found.is_file():  # a pipe would be waited for without end
            raise BadCampaign(missing)
        if (octets := found.stat().st_size) > MAXIMUM_FILE_OCTETS:
            raise BadCampaign(f"{path}: has {octets} octets, more than {MAXIMUM_FILE_OCTETS}")
        return found.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise BadCampaign(missing) from None
    except (OSError, RuntimeError) as fault:  # RuntimeError: Python before 3.13 on links in a circle
        reason = getattr(fault, "strerror", None) or "its links lead in a circle"
        raise BadCampaign(f"{path}: cannot be read ({reason})") from None


def _decode(path: str, content: bytes) -> None:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as fault:
        line = content.count(b"\n", 0, fault.start) + 1
        raise BadCampaign(f"{path}:{line}: is not UTF-8 (byte 0x{content[fault.start]:02x})") from None


def fault_of(files: Mapping[str, bytes], key: str, message: str) -> str:
    """`campaign.yaml:line: key: message`, with the line of that key or, where it is not there, of the one around it."""
    _, lines = parse_yaml(files[CAMPAIGN_FILE], file=CAMPAIGN_FILE, error=BadCampaign)
    location: tuple[str | int, ...] = tuple(
        int(part) if part.isdigit() else part for part in key.replace("[", ".").replace("]", "").split(".")
    )
    while location and location not in lines:
        location = location[:-1]
    return f"{CAMPAIGN_FILE}:{lines[location]}: {key}: {message}"
