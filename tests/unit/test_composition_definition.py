"""A campaign's folder: read, validated, frozen."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from composition_campaigns import BASICS, EXAMPLE, campaign

from mail_orchestration.composition.definition import (
    NOT_SAID,
    CampaignDefinition,
    campaign_from_files,
    load_campaign,
)
from mail_orchestration.composition.header_fields import Mailbox
from mail_orchestration.kernel.errors import BadCampaign
from mail_orchestration.kernel.model import BodyFormat


@pytest.mark.rule("2.1")
def test_a_release_freezes_what_was_loaded() -> None:
    loaded = load_campaign(EXAMPLE)
    frozen = campaign_from_files(loaded.files)
    assert frozen == loaded
    assert frozen.digest == loaded.digest
    assert sorted(loaded.files) == [
        "campaign.yaml",
        "files/spring-programme.csv",
        "images/tulip.png",
        "message.html.j2",
        "message.txt.j2",
        "partials/product.html.j2",
    ]
    for path in loaded.files:
        assert campaign_from_files({**loaded.files, path: loaded.files[path] + b"\n"}).digest != loaded.digest


@pytest.mark.rule("6.6")
def test_the_same_content_is_what_the_messages_say() -> None:
    letter = campaign(text="Dear {{ name }}", attached__pdf=b"pdf")
    for yaml in (
        "priority: 7\n",
        "exclude: [left]\n",
        "expires_at: 2027-01-01T00:00:00Z\n",
        "frequency: {policy: override_policy}\n",
        "# a comment\n",
    ):
        same = campaign(text="Dear {{ name }}", yaml=yaml, attached__pdf=b"pdf")
        assert same.digest != letter.digest
        assert same.content_digest == letter.content_digest
    others = [
        campaign(text="Dear {{ name }}!", attached__pdf=b"pdf"),
        campaign(text="Dear {{ name }}", attached__pdf=b"PDF"),
        campaign(text="Dear {{ name }}", attached__pdf=b"pdf", yaml="reply_to: a@b.example\n"),
        campaign(text="Dear {{ name }}", attached__pdf=b"pdf", yaml="variables: {price: 3}\n"),
    ]
    assert len({each.content_digest for each in [letter, *others]}) == 5
    assert set(CampaignDefinition.model_fields) >= NOT_SAID


def test_defaults() -> None:
    definition = campaign(text="x").definition
    assert definition.from_ == Mailbox("Jörg", "joerg@shop.example")
    assert definition.body_format is BodyFormat.MIME
    assert definition.maximum_assembly_failures_percentage == 1.0
    assert definition.maximum_error_percentage == 25.0
    assert (definition.on_uncertain, definition.state, definition.priority) == ("resend", "live", 0)


@pytest.mark.rule("2.1")
@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("prioritty: 1\n", "campaign.yaml:6: prioritty: unknown key; did you mean 'priority'?"),
        ("reply_to: nobody\n", "campaign.yaml:6: reply_to: is not an address"),
        ('reply_to: "A\\nBcc: b@c.de <a@b.de>"\n', "campaign.yaml:6: reply_to: holds a control character"),
        ("topic: Spaces Not\n", "campaign.yaml:6: topic: must be 1 to 63 small letters"),
        ("list_id: nodots\n", "campaign.yaml:6: list_id: must look like"),
        ("body_format: pdf\n", "campaign.yaml:6: body_format: "),
        ("headers:\n  List-Unsubscribe: x\n", "campaign.yaml:7: headers.List-Unsubscribe: the header field"),
        ("headers:\n  Content-Type: x\n", "campaign.yaml:7: headers.Content-Type: the header field"),
        ('headers:\n  "X: y": x\n', "campaign.yaml:7: headers.X: y: a header field's name"),
        ("attachments:\n  - path: a.csv\n", "campaign.yaml:7: attachments[0].path: there is no file a.csv"),
        ("attachments:\n  - path: ../a\n", "campaign.yaml:7: attachments[0].path: must be a path inside"),
        (
            "attachments:\n  - path: /etc/passwd\n",
            "campaign.yaml:7: attachments[0].path: must be a path inside",
        ),
        (
            'attachments: [{path: a, name: "x\\ny"}]\n',
            "campaign.yaml:6: attachments[0].name: holds a line end",
        ),
        (
            'attachments: [{path: a, name: "x\\u2028y"}]\n',
            "campaign.yaml:6: attachments[0].name: holds a line end",
        ),
        ('attachments: [{path: "a\\nb"}]\n', "campaign.yaml:6: attachments[0].path: holds a line end"),
        (
            "attachments: [{path: a, content_type: message/rfc822}]\n",
            "campaign.yaml:6: attachments[0].content_type: must be like",
        ),
        ('headers: {X-A: "y\\r\\nBcc: z"}\n', "campaign.yaml:6: headers.X-A: holds a line end"),
        ("headers: {X-A: y, x-a: z}\n", "campaign.yaml:1: headers names X-A twice"),
        ('to_name: "A\\r\\nBcc: z"\n', "campaign.yaml:6: to_name: holds a line end"),
        ('reply_to: "A\\r\\nBcc: z <a@b.example>"\n', "campaign.yaml:6: reply_to: holds a control character"),
        ('envelope_sender: "a@b.example>\\r\\nDATA"\n', "campaign.yaml:6: envelope_sender: holds a control"),
        ('list_id: "a.b>\\nX: y"\n', "campaign.yaml:6: list_id: must look like"),
        ('inline: {"a\\nb": a}\n', "campaign.yaml:6: inline.a"),
        (
            "required_attributes: [First Name]\n",
            "campaign.yaml:6: required_attributes[0]: 'First Name' is no name",
        ),
        ("required_attributes: ['']\n", "campaign.yaml:6: required_attributes[0]: '' is no name"),
        ("required_attributes: [url]\n", "campaign.yaml:6: required_attributes[0]: 'url' is called rcp_url"),
        ("audiences: [customers, a b]\n", "campaign.yaml:6: audiences: stands twice"),
        ("inline:\n  logo: logo.png\n", "campaign.yaml:7: inline.logo: there is no file logo.png"),
        ("inline:\n  lo go: logo.png\n", "campaign.yaml:7: inline.lo go: an inline image's name"),
        ("state: test\n", "campaign.yaml:1: state is test, so test_addresses"),
        ("frequency: {policy: never}\n", "campaign.yaml:6: frequency.policy: "),
        ("frequency:\n  shelf_life_days: 0\n", "campaign.yaml:7: frequency.shelf_life_days: "),
        (
            "frequency:\n  rules: [{max_mails: 2, days: 7}, {max_mails: 1, days: 30}]\n",
            "campaign.yaml:7: frequency.rules: 2 in 7 days could never be reached beside 1 in 30 days",
        ),
        ("frequency:\n  rules: []\n", "campaign.yaml:7: frequency.rules: no rule is active"),
        (
            "frequency: {rules: [{max_mails: 2, days: 7, active: false}]}\n",
            "campaign.yaml:6: frequency.rules: no rule is active",
        ),
        ("exclude: [customers]\n", "campaign.yaml:1: exclude names customers"),
        ("components:\n  sendd: [a.b:c]\n", "campaign.yaml:7: components.sendd: "),
        (
            "components:\n  send: ['a b']\n",
            "campaign.yaml:7: components.send[0]: must be `package.module:callable`",
        ),
        ("schedule: {cron: '* * * *'}\n", "campaign.yaml:6: schedule.cron: must have five fields"),
        ("schedule: {cron: '61 * * * *'}\n", "campaign.yaml:6: schedule.cron: the minute '61'"),
        (
            "schedule: {cron: '0 9 * * *', time_zone: Mars/X}\n",
            "campaign.yaml:6: schedule.time_zone: there is no",
        ),
        ("expires_at: 2026-01-01T00:00:00\n", "campaign.yaml:6: expires_at: "),
        ("priority: 100000\n", "campaign.yaml:6: priority: "),
        ("max_error_percentage: 101\n", "campaign.yaml:6: max_error_percentage: "),
    ],
)
def test_what_is_wrong_is_named(yaml: str, message: str) -> None:
    with pytest.raises(BadCampaign) as caught:
        campaign(text="x", yaml=yaml, basics=BASICS.lstrip())
    assert str(caught.value).startswith(message.replace(":6:", ":5:").replace(":7:", ":6:"))


@pytest.mark.parametrize("cron", ["0 9 * * 1-5", "*/15 * * * *", "0,30 8-18/2 1 1,7 0"])
def test_schedules_are_read(cron: str) -> None:
    definition = campaign(
        text="x", yaml=f"schedule: {{cron: '{cron}', time_zone: Europe/Berlin}}\n"
    ).definition
    assert definition.schedule is not None
    assert definition.schedule.cron == cron


def test_folders_that_are_no_campaign(tmp_path: Path) -> None:
    with pytest.raises(BadCampaign, match=r"there is no campaign\.yaml"):
        load_campaign(tmp_path / "nowhere")
    (tmp_path / "campaign.yaml").write_text(BASICS, encoding="utf-8")
    with pytest.raises(BadCampaign, match=r"there is neither message\.html\.j2 nor message\.txt\.j2"):
        load_campaign(tmp_path)
    (tmp_path / "message.txt.j2").write_bytes(b"a\nb\xff")
    with pytest.raises(BadCampaign, match=r"^message\.txt\.j2:2: is not UTF-8 \(byte 0xff\)"):
        load_campaign(tmp_path)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    inside = tmp_path / "campaign"
    inside.mkdir()
    (tmp_path / "secret.txt").write_text("s3cret", encoding="utf-8")
    (inside / "campaign.yaml").write_text(BASICS + "attachments: [{path: a.txt}]\n", encoding="utf-8")
    (inside / "message.txt.j2").write_text("Hi", encoding="utf-8")
    (inside / "a.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(BadCampaign, match=r"a\.txt: leads out of the campaign's folder"):
        load_campaign(inside)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "campaign.yaml").write_text(BASICS + "attachments: [{path: a.txt}]\n", encoding="utf-8")
    (tmp_path / "message.txt.j2").write_text("Hi", encoding="utf-8")
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(
        BadCampaign, match=r"^campaign\.yaml:6: attachments\[0\]\.path: there is no file a\.txt"
    ):
        load_campaign(tmp_path)
    (tmp_path / "a.txt").unlink()
    (tmp_path / "a.txt").symlink_to("a.txt")
    with pytest.raises(BadCampaign, match=r"^a\.txt: cannot be read"):
        load_campaign(tmp_path)


@pytest.mark.rule("1.3")
def test_audiences_have_the_names_that_settings_give_them() -> None:
    found = campaign(text="x", basics=BASICS.replace("[customers]", "[VIP.2026]")).definition
    assert found.audiences == ["VIP.2026"]


def test_a_page_has_no_html_template_beside_it() -> None:
    with pytest.raises(BadCampaign, match="content_url: the body is a page"):
        campaign(html="x", yaml="content_url: https://x.example\n")
