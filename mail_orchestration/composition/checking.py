"""What is wrong with a campaign, before anybody gets it (spec 2.1).

Errors are what would bypass recipients or mail nonsense; warnings are what somebody should have looked at.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime

from jinja2 import meta, nodes

from mail_orchestration.composition.assembly import AssemblyPool
from mail_orchestration.composition.compression import Compressor
from mail_orchestration.composition.context import OUR_NAMES, MailJobFacts
from mail_orchestration.composition.definition import CAMPAIGN_FILE, Campaign
from mail_orchestration.composition.dkim_checking import dkim_findings
from mail_orchestration.composition.errors import FaultReason
from mail_orchestration.composition.findings import Finding, Severity, error, placed, warning
from mail_orchestration.composition.frequency_checking import frequency_findings
from mail_orchestration.composition.templates import COMPILE_FAULTS, CampaignEnvironment, compile_fault
from mail_orchestration.kernel.components import load_components
from mail_orchestration.kernel.errors import AssemblyFailed, BadCampaign, ComponentFailed, NotFound
from mail_orchestration.kernel.model import BodyFormat, Recipient
from mail_orchestration.kernel.settings import Settings
from mail_orchestration.kernel.tokens import SigningKeys

CLIPPED_AT_OCTETS = 102_000
"""Gmail hides what comes after about 102 KB of HTML, the unsubscribe link with it."""
_LARGE_OCTETS = 1_000_000
_LONG_SUBJECT = 120
_CID = re.compile(r"""cid:([^"'\s)>{]+)""")
_PATH_OF_IMAGE = re.compile(
    r"""<img\b[^>]*?\bsrc\s*=\s*["'](?![a-z][a-z0-9+.-]*:|//|\{)([^"']+)""", re.IGNORECASE
)


def check(
    campaign: Campaign, sample: Recipient | None = None, *, settings: Settings | None = None
) -> list[Finding]:
    """What is wrong with `campaign`, errors first. Composes it for `sample`, or for its `sample_contact`.

    Templates run in a process with limits, as they do in a release. `settings` are those of the installation that it is
    for; None where nobody knows them.
    """
    syntax = list(_syntax(campaign))
    findings = [
        *syntax,
        *_inline_images(campaign),
        *_unsubscribe(campaign),
        *_components(campaign),
        *frequency_findings(campaign, settings),
        *([] if settings is None else dkim_findings(campaign, settings.dkim)),
    ]
    if not any(each.severity is Severity.ERROR for each in syntax):
        findings += [*_names(campaign, sample), *_composed(campaign, sample)]
    return sorted(dict.fromkeys(findings), key=lambda each: each.severity is not Severity.ERROR)


def refuse_bad_templates(campaign: Campaign) -> None:
    """Raise `BadCampaign`, a line per fault, when a template does not compile or includes one that there is not."""
    faults = [each.told for each in _syntax(campaign) if each.severity is Severity.ERROR]
    if faults:
        raise BadCampaign("\n".join(faults))


def _templates(campaign: Campaign) -> Iterator[tuple[str, str]]:
    """Name and source: files first, then the templates inside `campaign.yaml`."""
    for path, content in campaign.files.items():
        if path.endswith(".j2"):
            yield path, content.decode("utf-8-sig")
    definition = campaign.definition
    for key, source in (
        ("subject", definition.subject),
        ("to_name", definition.to_name),
        ("content_url", definition.content_url),
        *definition.headers.items(),
    ):
        if source:
            yield f"{CAMPAIGN_FILE}: {key}", source


def _syntax(campaign: Campaign) -> Iterator[Finding]:
    environment = CampaignEnvironment(campaign.files)
    for name, source in _templates(campaign):
        try:
            # Compiling finds what parsing lets pass: unknown filters and tests.
            environment.compile(source, name=name, filename=name)
        except COMPILE_FAULTS as fault:
            yield error(*compile_fault(fault, name))
            continue
        tree = environment.parse(source, name)
        for node in tree.find_all((nodes.Include, nodes.Extends, nodes.Import, nodes.FromImport)):
            wanted = node.template  # type: ignore[attr-defined]
            if isinstance(wanted, nodes.Const) and wanted.value not in campaign.files:
                yield error(name, node.lineno, f"there is no template {wanted.value}")
        for each in tree.find_all(nodes.Filter):
            if each.name == "safe":
                yield warning(name, each.lineno, "`safe` lets values from data write HTML")


def _names(campaign: Campaign, sample: Recipient | None) -> Iterator[Finding]:
    definition = campaign.definition
    environment = CampaignEnvironment(campaign.files)
    trees = [(name, environment.parse(source, name)) for name, source in _templates(campaign)]
    # A name that one template sets, as in a loop around an include, may be used by another.
    bound = {node.name for _, tree in trees for node in tree.find_all(nodes.Name) if node.ctx == "store"}
    known = OUR_NAMES | bound | set(definition.variables) | set(definition.required_attributes)
    offered = set(sample.attributes if sample is not None else definition.sample_contact)
    for name, tree in trees:
        tested = {
            test.node.name
            for test in tree.find_all(nodes.Test)
            if test.name == "defined" and isinstance(test.node, nodes.Name)
        } | {
            each.node.name
            for each in tree.find_all(nodes.Filter)
            if each.name in ("default", "d") and isinstance(each.node, nodes.Name)
        }
        for missing in sorted(meta.find_undeclared_variables(tree) - known - tested):
            lines = [node.lineno for node in tree.find_all(nodes.Name) if node.name == missing]
            told = "" if missing in offered else "; the sample contact has none either"
            yield warning(
                name,
                lines[0] if lines else None,
                f"{missing} is not among required_attributes: recipients without it are bypassed{told}",
            )


def _inline_images(campaign: Campaign) -> Iterator[Finding]:
    if campaign.definition.content_url is not None:
        return
    used: set[str] = set()
    for path, content in campaign.files.items():
        if not path.endswith(".html.j2"):
            continue
        for number, line in enumerate(content.decode("utf-8").splitlines(), 1):
            for cid in _CID.findall(line):
                used.add(cid)
                if cid not in campaign.definition.inline:
                    yield error(path, number, f"shows cid:{cid}, which is not among the inline images")
            for image in _PATH_OF_IMAGE.findall(line):
                yield warning(
                    path,
                    number,
                    f"shows {image}, which no mail program can find: use https://… or an inline image",
                )
    for cid in campaign.definition.inline:
        if cid not in used:
            yield warning(CAMPAIGN_FILE, None, f"inline.{cid} is shown by no template")


def _components(campaign: Campaign) -> Iterator[Finding]:
    for stage in campaign.definition.components:
        try:
            load_components(campaign.definition.components, stage)
        except (NotFound, ComponentFailed) as fault:
            yield error(CAMPAIGN_FILE, None, str(fault))


def _unsubscribe(campaign: Campaign) -> Iterator[Finding]:
    if campaign.definition.transactional:
        return  # It goes to those who unsubscribed too.
    for main, suffix in ((campaign.html_template, ".html.j2"), (campaign.text_template, ".txt.j2")):
        if main is None:
            continue
        texts = [content for path, content in campaign.files.items() if path.endswith(suffix)]
        if not any(b"unsubscribe_url" in text or b"unsubscribe_mailto" in text for text in texts):
            yield warning(main, None, "has no unsubscribe link (unsubscribe_url)")


def _composed(campaign: Campaign, sample: Recipient | None) -> Iterator[Finding]:
    definition = campaign.definition
    if definition.content_url is not None:
        return
    someone = sample or Recipient(
        recipient_no=1, contact_id=1, address="sample@example.org", attributes=definition.sample_contact
    )
    facts = MailJobFacts(
        installation="check",
        mail_job_id=1,
        released_at=datetime(2000, 1, 1, tzinfo=UTC),
        public_base_url="https://mail.example.org",
    )
    try:
        with AssemblyPool(
            campaign, facts, SigningKeys({"check": secrets.token_bytes(32)}), workers=1
        ) as pool:
            (batch,) = pool.assemble([[someone]])
            for bypass in batch.bypasses:
                # Without a contact to try it on, a missing attribute says nothing about the campaign.
                unknown = sample is None and not definition.sample_contact
                excused = unknown and bypass.reason in (
                    FaultReason.MISSING_ATTRIBUTE,
                    FaultReason.TEMPLATE_ERROR,
                )
                detail = bypass.detail
                if sample is None and bypass.reason is FaultReason.MISSING_ATTRIBUTE:
                    detail = f"{'there is no sample_contact' if unknown else 'sample_contact'}: {detail}"
                yield placed(Severity.WARNING if excused else Severity.ERROR, detail)
            for block in batch.blocks:
                data, _ = Compressor(pool.dictionary).read(block)
                yield from _sizes(campaign, data)
    except (BadCampaign, AssemblyFailed) as fault:
        yield placed(Severity.ERROR, str(fault))


def _sizes(campaign: Campaign, data: bytes) -> Iterator[Finding]:
    if len(data) > _LARGE_OCTETS:
        yield warning(
            CAMPAIGN_FILE, None, f"a message has {len(data):,} octets; some relays take no more than 10 MB"
        )
    html = data.partition(b"Content-Type: text/html")[2].partition(b"\r\n--=_")[0]
    if len(html) > CLIPPED_AT_OCTETS and campaign.definition.body_format is not BodyFormat.TEXT:
        yield warning(
            campaign.html_template or CAMPAIGN_FILE,
            None,
            f"the HTML has {len(html):,} octets encoded: long mail is clipped",
        )
    if len(campaign.definition.subject) > _LONG_SUBJECT and "{" not in campaign.definition.subject:
        yield warning(CAMPAIGN_FILE, None, f"the subject has {len(campaign.definition.subject)} characters")
