"""The smaller pieces of `campaign.yaml`, each with its own rules."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from mail_orchestration.composition.header_fields import Mailbox, has_control, parse_mailbox
from mail_orchestration.kernel.frequency import CampaignPolicy, Rule
from mail_orchestration.kernel.frequency_settings import FrequencyRules, ShelfLifeDays, active_rules

Stage = Literal["throttle", "preprocess", "filter", "cookies", "compose", "send", "postprocess"]
"""Where a campaign may put components of its own (spec 1.6)."""

RESERVED_FIELDS = frozenset(
    {
        *("from", "to", "cc", "bcc", "sender", "reply-to", "subject", "date", "message-id", "mime-version"),
        *("list-id", "list-unsubscribe", "list-unsubscribe-post", "feedback-id", "return-path", "received"),
        *("dkim-signature", "authentication-results", "in-reply-to", "references", "delivered-to"),
    }
)
_RESERVED_PREFIXES = ("content-", "resent-", "arc-", "received-")
_RECIPIENTS_OWN = {"url": "rcp_url", "rcp_guid": "guid", "rcp_locale": "locale"}
_CRON_FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of the month", 1, 31),
    ("month", 1, 12),
    ("weekday", 0, 7),
)
_CRON_PART = re.compile(r"(?:\*|(?P<low>[0-9]{1,2})(?:-(?P<high>[0-9]{1,2}))?)(?:/(?P<step>[0-9]{1,2}))?")


def _relative_path(text: str) -> str:
    path = PurePosixPath(text)
    if not text or path.is_absolute() or ".." in path.parts or "\\" in text:
        raise ValueError("must be a path inside the campaign's folder")
    return _without_controls(str(path))


def _without_controls(text: str) -> str:
    if has_control(text):
        raise ValueError("holds a line end or another control character")
    return text


def _line(text: str) -> str:
    # What a template prints is looked at when it is printed.
    return text if "{" in text else _without_controls(text)


def _attribute_name(text: str) -> str:
    if not text.isidentifier() or text != text.lower():
        raise ValueError(
            f"{text!r} is no name as templates use it, such as `first_name` of the column First Name"
        )
    if text in _RECIPIENTS_OWN:
        raise ValueError(f"{text!r} is called {_RECIPIENTS_OWN[text]} in templates and here")
    return text


def _content_type(text: str) -> str:
    if not re.fullmatch(r"[a-z]+/[a-z0-9.+-]+", text) or text.startswith(("message/", "multipart/")):
        raise ValueError(
            "must be like `application/pdf`; files that are messages go as application/octet-stream"
        )
    return text


def _mailbox(value: object) -> Mailbox:
    if isinstance(value, Mailbox):
        return value
    if not isinstance(value, str):
        raise ValueError("must be text such as `Name <local@example.org>`")
    return parse_mailbox(value)


def _component(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][\w.-]*(:[A-Za-z_][\w.]*)?", text):
        raise ValueError("must be `package.module:callable` or the name of an entry point")
    return text


def _cid(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+(@[A-Za-z0-9.-]+)?", text):
        raise ValueError("an inline image's name has letters, digits, dots, dashes and underscores only")
    return text


def _field_name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9-]{1,60}", text):
        raise ValueError("a header field's name has letters, digits and dashes only")
    if text.lower() in RESERVED_FIELDS or text.lower().startswith(_RESERVED_PREFIXES):
        raise ValueError(f"the header field {text} is written by the composer and cannot be set here")
    return text


def _domain_like(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+", text) or len(text) > 255:
        raise ValueError("must look like `newsletter.example.org` (RFC 2919)")
    return text


def _slug(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", text):
        raise ValueError(
            "must be 1 to 63 small letters, digits, dashes and underscores, a letter or digit first"
        )
    return text


def _time_zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (OSError, ValueError, KeyError):
        raise ValueError(f"there is no time zone {text!r}") from None
    return text


def _cron(text: str) -> str:
    parts = text.split()
    if len(parts) != len(_CRON_FIELDS):
        raise ValueError("must have five fields: minute, hour, day of the month, month, weekday")
    for part, (name, low, high) in zip(parts, _CRON_FIELDS, strict=True):
        for each in part.split(","):
            found = _CRON_PART.fullmatch(each)
            numbers = [int(number) for number in (found["low"], found["high"]) if number] if found else []
            if found is None or found["step"] in ("0", "00"):
                raise ValueError(f"the {name} {each!r} is not understood")
            if any(not low <= number <= high for number in numbers) or numbers != sorted(numbers):
                raise ValueError(f"the {name} {each!r} is not within {low} to {high}")
    return text


def _one_is_active(rules: FrequencyRules) -> FrequencyRules:
    if not active_rules(rules):
        raise ValueError(
            "no rule is active; a campaign that no rule shall hold back says policy: override_policy"
        )
    return rules


AudienceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
"""As in the settings."""
AttributeName = Annotated[str, AfterValidator(_attribute_name)]
Line = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=4_000), AfterValidator(_line)
]
RelativePath = Annotated[str, AfterValidator(_relative_path)]
MailboxText = Annotated[Mailbox, BeforeValidator(_mailbox)]
ComponentName = Annotated[str, AfterValidator(_component)]
ContentId = Annotated[str, AfterValidator(_cid)]
FieldName = Annotated[str, AfterValidator(_field_name)]
ListId = Annotated[str, AfterValidator(_domain_like)]
Slug = Annotated[str, AfterValidator(_slug)]


class Strict(BaseModel):
    """Refuses keys it does not know, and is never changed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, arbitrary_types_allowed=True
    )


class AttachmentSpec(Strict):
    """A file that goes with every message."""

    path: RelativePath
    name: (
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=255, pattern=r"^[^/\\]+$"),
            AfterValidator(_without_controls),
        ]
        | None
    ) = None
    """The name that the recipient sees; the path's last part by default."""
    content_type: Annotated[str, AfterValidator(_content_type)] | None = None

    @property
    def shown_name(self) -> str:
        """`name`, or the path's last part."""
        return self.name or PurePosixPath(self.path).name


class Schedule(Strict):
    """When a campaign is released by itself (spec 3.6)."""

    cron: Annotated[str, AfterValidator(_cron)]
    time_zone: Annotated[str, AfterValidator(_time_zone)] = "UTC"


class Frequency(Strict):
    """What the frequency policy is for a campaign (spec 8.5)."""

    policy: CampaignPolicy = CampaignPolicy.PER_POLICY
    count: bool | None = None
    """Whether its mails count; None: as the installation says."""
    rules: Annotated[FrequencyRules, AfterValidator(_one_is_active)] | None = None
    """They hold in place of the policy's; None: the policy's."""
    shelf_life_days: ShelfLifeDays | None = None
    """How long a mail of it waits; None: as the policy says."""

    @property
    def own_rules(self) -> tuple[Rule, ...] | None:
        """Those of `rules` that are active, narrowest first."""
        return None if self.rules is None else active_rules(self.rules)


class Canary(Strict):
    """The first messages go alone; the rest follows when the relays did not refuse too many of them."""

    messages: int = Field(ge=1, le=10_000)
    max_rejected_percentage: float = Field(default=2.0, ge=0, lt=100)
