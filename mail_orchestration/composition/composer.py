"""One recipient in, one message out: the same octets every time (spec 2.3 to 2.5, 2.8).

Everything that a mail job's messages share is made once, in `Composer.__init__`; `compose` renders, encodes
and joins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from typing import Any

from jinja2 import StrictUndefined, Template, Undefined

from mail_orchestration.composition.attachments import StaticPart, attachment_part, inline_part
from mail_orchestration.composition.bodies import BodyWriter, Boundaries
from mail_orchestration.composition.context import (
    MailJobFacts,
    RecipientLinks,
    envelope_sender,
    recipient_links,
    template_values,
)
from mail_orchestration.composition.cookies import COOKIE_NAME, personalisation_cookie
from mail_orchestration.composition.definition import CAMPAIGN_FILE, Campaign
from mail_orchestration.composition.dictionary import literal_text
from mail_orchestration.composition.dkim import Signer
from mail_orchestration.composition.empty_body import is_empty
from mail_orchestration.composition.errors import CompositionError, FaultReason
from mail_orchestration.composition.header_fields import (
    Mailbox,
    list_id_field,
    mailbox_field,
    unstructured,
    url_list_field,
)
from mail_orchestration.composition.templates import CampaignEnvironment, compile_template, render
from mail_orchestration.composition.text_part import TextDeriver, text_of
from mail_orchestration.kernel.dkim_keys import DkimKey
from mail_orchestration.kernel.errors import BadCampaign
from mail_orchestration.kernel.model import BodyFormat, Recipient
from mail_orchestration.kernel.pages import Page, PageRequest
from mail_orchestration.kernel.tokens import Purpose, SigningKeys


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposedMessage:
    """A message as it will be sent, and what it was made of."""

    data: bytes
    """RFC 5322, CRLF line ends, not dot-stuffed."""
    subject: str
    message_id: str
    reverse_path: str
    html: str | None
    text: str | None
    fit_from: int | None = None
    """Where the body begins when `BodyWriter` has made sure that its lines are fit to be sent."""


class Composer:
    """Composes the messages of one mail job. Not for several threads at once.

    Raises `BadCampaign` naming file and line when a template does not compile.
    """

    def __init__(
        self,
        campaign: Campaign,
        facts: MailJobFacts,
        keys: SigningKeys,
        *,
        dkim_keys: Sequence[DkimKey] = (),
        undefined: type[Undefined] = StrictUndefined,
        static_parts: tuple[Sequence[StaticPart], Sequence[StaticPart]] | None = None,
    ) -> None:
        """`dkim_keys` are those of the campaign's `From` domain; each of them signs every message.

        `undefined` is what a template finds under a name that nobody has given a value. `static_parts` take the place
        of the campaign's inline images and attachments.
        """
        definition = campaign.definition
        self.campaign, self.facts = campaign, facts
        self._definition, self._keys = definition, keys
        self.key_id, self.dkim_keys = keys.current, dkim_keys
        self._signer = Signer(dkim_keys) if dkim_keys else None
        self._text_environment = CampaignEnvironment(campaign.files, undefined=undefined)
        self._subject = self._line_template("subject", definition.subject)
        self._to_name = self._line_template("to_name", definition.to_name) if definition.to_name else None
        self._extra = [(name, self._line_template(name, value)) for name, value in definition.headers.items()]
        self._content_url = self._line_template("content_url", definition.content_url or "")
        self._html = self._file_template(campaign.html_template)
        self._text = self._file_template(campaign.text_template)
        derives = campaign.html_template is not None and campaign.text_template is None
        self._derive = (
            TextDeriver(campaign.files, campaign.html_template or "", undefined=undefined).derive
            if derives
            else None
        )
        seed = hashlib.sha256(
            f"{campaign.digest}:{facts.installation}:{facts.mail_job_id}".encode()
        ).hexdigest()
        self.static_parts = static_parts or _encoded_parts(campaign)
        inline, attached = self.static_parts
        self._bodies = BodyWriter(Boundaries.of(seed[:24]), inline=inline, attachments=attached)
        self._head, self._tail = self._shared_fields()
        self._date = _date_field(facts.released_at)
        self._maximum_octets = definition.maximum_message_kilobytes * 1000

    def compose(
        self, recipient: Recipient, page: Page | None = None, *, dated: datetime | None = None
    ) -> ComposedMessage:
        """The message for one recipient; `page` is the fetched body of a page campaign.

        `dated` is the moment of a message that is composed by itself: its `Date` and `released_at`, and part of its
        `Message-ID`. Without it they are the mail job's. Raises `CompositionError` with the bypass reason, and a
        detail naming attribute, field, or file and line.
        """
        self._verify_attributes(recipient)
        return self._composed(recipient, page, dated)

    def _composed(self, recipient: Recipient, page: Page | None, dated: datetime | None) -> ComposedMessage:
        links = recipient_links(self.facts, self._definition, recipient, self._keys)
        values = template_values(self.facts, self._definition, recipient, links, dated)
        html, text = self._render_bodies(recipient, values, page)
        self._verify_body(html, text)
        values["view"] = "text"
        return self._write(
            recipient,
            links,
            subject=_rendered_line(self._subject, values),
            to_name=_rendered_line(self._to_name, values) if self._to_name else "",
            extra=[(name, _rendered_line(each, values)) for name, each in self._extra],
            html=html,
            text=text,
            dated=dated,
        )

    def page_request(self, recipient: Recipient, *, dated: datetime | None = None) -> PageRequest | None:
        """The page that is this recipient's body, and the cookie to ask with; None without `content_url`."""
        if self._definition.content_url is None:
            return None
        url = recipient.url
        if not url:
            links = recipient_links(self.facts, self._definition, recipient, self._keys)
            values = template_values(self.facts, self._definition, recipient, links, dated)
            url = _rendered_line(self._content_url, values)
        claims = self.facts.claims(self._definition.name, recipient)
        cookie = personalisation_cookie(claims, self._keys)
        return PageRequest(url=url, cookie_name=COOKIE_NAME, cookie_value=cookie)

    def message_id(self, recipient: Recipient, *, dated: datetime | None = None) -> str:
        """Without angle brackets. Depends on mail job and recipient only, and tells neither (spec 2.4).

        A message that belongs to no mail job is told apart by its moment too.
        """
        about = f"{self.facts.installation}\0{self.facts.mail_job_id}\0{recipient.recipient_no}"
        if dated is not None:
            about += f"\0{dated.isoformat()}"
        digest = self._keys.digest(Purpose.MESSAGE_ID, about.encode("utf-8"))
        return f"{digest[:16].hex()}@{self._definition.from_.domain}"

    def _line_template(self, key: str, source: str) -> Template | str:
        if "{{" not in source and "{%" not in source and "{#" not in source:
            return source
        return compile_template(self._text_environment, f"{CAMPAIGN_FILE}: {key}", source)

    def _file_template(self, name: str | None) -> Template | None:
        return compile_template(self._text_environment, name) if name is not None else None

    def _shared_fields(self) -> tuple[bytes, bytes]:
        """The fields before and after the recipient's own."""
        definition, facts = self._definition, self.facts
        feedback_id = f"{facts.mail_job_id}:{definition.name}:{facts.site}:{facts.installation}"
        try:
            head = mailbox_field("From", definition.from_)
            if definition.reply_to is not None:
                head += mailbox_field("Reply-To", definition.reply_to)
            tail = list_id_field("", definition.list_id or f"{definition.name}.{definition.from_.domain}")
            tail += b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n"
            tail += unstructured("Feedback-ID", feedback_id)
        except CompositionError as fault:
            raise BadCampaign(f"{CAMPAIGN_FILE}: {fault.detail}") from None
        return head, tail + b"MIME-Version: 1.0\r\n"

    def _verify_attributes(self, recipient: Recipient) -> None:
        own = {"rcp_url": recipient.url, "locale": recipient.locale, "guid": recipient.guid}
        for name in self._definition.required_attributes:
            value = own[name] if name in own else recipient.attributes.get(name)
            if value is None or value == "":
                raise CompositionError(
                    FaultReason.MISSING_ATTRIBUTE, f"the attribute {name} is absent or empty"
                )

    def _render_bodies(
        self, recipient: Recipient, values: dict[str, Any], page: Page | None
    ) -> tuple[str | None, str | None]:
        body_format = recipient.body_format or self._definition.body_format
        wants_html = body_format is not BodyFormat.TEXT
        html = None
        if self._definition.content_url is not None:
            if page is None:
                raise CompositionError(FaultReason.PAGE_UNAVAILABLE, "the page was not fetched")
            html = page.html
        elif self._html is not None and (wants_html or self._text is None):
            html = render(self._html, values)
        if self._text is not None:
            text: str | None = render(self._text, {**values, "view": "text"})
        elif html is None:
            text = None
        else:
            text = self._derive(html, values) if self._derive is not None else text_of(html)
        return html if wants_html else None, text

    def _verify_body(self, html: str | None, text: str | None) -> None:
        if not self._definition.attachments and is_empty(html, text):
            raise CompositionError(FaultReason.EMPTY_BODY, "there is nothing to read and nothing attached")

    def _write(
        self,
        recipient: Recipient,
        links: RecipientLinks,
        *,
        subject: str,
        to_name: str,
        extra: list[tuple[str, str]],
        html: str | None,
        text: str | None,
        dated: datetime | None = None,
    ) -> ComposedMessage:
        message_id = self.message_id(recipient, dated=dated)
        related = (recipient.body_format or self._definition.body_format) is BodyFormat.MHTML
        fields = b"".join(
            (
                self._head,
                mailbox_field("To", Mailbox(to_name, recipient.address)),
                unstructured("Subject", subject),
                f"Message-ID: <{message_id}>\r\n".encode("ascii"),
                url_list_field("List-Unsubscribe", (links.unsubscribe_url, links.unsubscribe_mailto)),
                *(unstructured(name, value) for name, value in extra),
                self._date if dated is None else _date_field(dated),
                self._tail,
            )
        )
        body = self._bodies.write(text=text, html=html, related=related)
        if self._signer is not None:
            moment = dated or self.facts.released_at
            fields = self._signer.signature_fields(fields + body, moment) + fields
        data = fields + body
        if len(data) > self._maximum_octets:
            raise CompositionError(
                FaultReason.MESSAGE_TOO_LARGE, f"has {len(data)} octets, more than {self._maximum_octets}"
            )
        return ComposedMessage(
            data=data,
            subject=subject,
            message_id=message_id,
            reverse_path=envelope_sender(self.facts, self._definition),
            html=html,
            text=text,
            fit_from=len(fields) if self._bodies.writes_fit_lines else None,
        )

    def _written_literally(self, recipient: Recipient) -> bytes:
        """The message of what the templates say by themselves, nothing evaluated."""
        files = self.campaign.files
        html = literal_text(self._text_environment, files, html=True)
        text = literal_text(self._text_environment, files, html=False)
        links = recipient_links(self.facts, self._definition, recipient, self._keys)
        text = text or (text_of(html) if html else "")
        return self._write(
            recipient, links, subject="", to_name="", extra=[], html=html or None, text=text
        ).data


def _encoded_parts(campaign: Campaign) -> tuple[list[StaticPart], list[StaticPart]]:
    """Inline images, and attachments."""
    definition = campaign.definition
    return (
        [
            inline_part(cid, path.rpartition("/")[2], campaign.files[path])
            for cid, path in definition.inline.items()
        ],
        [
            attachment_part(each.shown_name, campaign.files[each.path], each.content_type)
            for each in definition.attachments
        ],
    )


def _date_field(moment: datetime) -> bytes:
    return f"Date: {format_datetime(moment)}\r\n".encode("ascii")


def _rendered_line(template: Template | str, values: dict[str, Any]) -> str:
    return template if isinstance(template, str) else render(template, values)
