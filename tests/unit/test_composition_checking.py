"""What `check` finds before anybody gets the mail."""

from __future__ import annotations

import pytest
from composition_campaigns import EXAMPLE, campaign

from mail_orchestration.composition.checking import check
from mail_orchestration.composition.definition import load_campaign
from mail_orchestration.kernel.frequency_settings import FrequencyRuleSettings, FrequencySettings
from mail_orchestration.kernel.retention_settings import RetentionSettings
from mail_orchestration.kernel.settings import Settings

GOOD = "Hi {{ unsubscribe_url }}"


def found(**parts: object) -> list[str]:
    return [str(each) for each in check(campaign(**parts))]  # type: ignore[arg-type]


@pytest.mark.rule("2.1")
def test_nothing_is_wrong_with_the_example() -> None:
    assert check(load_campaign(EXAMPLE)) == []


@pytest.mark.rule("2.1")
def test_syntax_is_told_with_file_and_line() -> None:
    assert found(text=GOOD + "\n{% if x %}", html=GOOD + "{{ x | nope }}") == [
        "error: message.html.j2:1: No filter named 'nope'.",
        "error: message.txt.j2:2: Unexpected end of template. Jinja was looking for the following tags: "
        "'elif' or 'else' or 'endif'. The innermost block that needs to be closed is 'if'.",
    ]


@pytest.mark.rule("2.1")
def test_undefined_names() -> None:
    assert found(text=GOOD + "\n{{ nme }}", yaml="sample_contact: {name: Zoë}\n") == [
        "error: message.txt.j2:2: 'nme' is undefined",
        "warning: message.txt.j2:2: nme is not among required_attributes: recipients without it are bypassed; "
        "the sample contact has none either",
    ]
    assert (
        found(text=GOOD + "{{ name }}", yaml="sample_contact: {name: Zoë}\nrequired_attributes: [name]\n")
        == []
    )
    assert found(text=GOOD + "{% if name is defined %}{{ name }}{% endif %}") == []


OWN_RULES = "frequency:\n  rules:\n    - {max_mails: 9, days: 90}\n    - {max_mails: 2, days: 7}\n"


@pytest.mark.rule("8.5")
@pytest.mark.parametrize(
    ("yaml", "findings"),
    [
        ("frequency: {policy: per_policy, count: true}\n", []),
        (
            "frequency:\n  count: false\n  policy: override_policy\n",
            [
                "warning: campaign.yaml:8: frequency.policy: overrides the frequency policy: it goes out at once, "
                "however often its recipients were written to",
                "warning: campaign.yaml:7: frequency.count: its mails do not count for the frequency policy",
            ],
        ),
        (
            OWN_RULES,
            [
                "warning: campaign.yaml:7: frequency.rules: rules of its own hold in place of the installation's: "
                "2 in 7 days, 9 in 90 days"
            ],
        ),
        (
            OWN_RULES + "  policy: override_policy\n  shelf_life_days: 3\n",
            [
                "warning: campaign.yaml:10: frequency.policy: overrides the frequency policy: it goes out at once, "
                "however often its recipients were written to",
                "warning: campaign.yaml:7: frequency.rules: do nothing beside policy: override_policy",
                "warning: campaign.yaml:11: frequency.shelf_life_days: does nothing beside policy: override_policy, "
                "as nothing waits",
            ],
        ),
    ],
)
def test_where_it_departs_from_the_frequency_policy(yaml: str, findings: list[str]) -> None:
    assert found(text=GOOD, yaml=yaml) == findings


@pytest.mark.rule("8.5")
def test_rules_of_its_own_need_a_daily_log_that_is_long_enough() -> None:
    own = campaign(text=GOOD, yaml=OWN_RULES)

    def found_where_it_has(days: int) -> list[str]:
        settings = Settings(retention=RetentionSettings(daily_log_days=days))
        return [str(each) for each in check(own, settings=settings) if "frequency" in each.message]

    (told,) = found_where_it_has(92)
    assert told.startswith("warning: ")
    assert found_where_it_has(91)[0] == (
        "error: campaign.yaml:7: frequency.rules: rules of up to 90 days need retention.daily_log_days of 92 or more; "
        "it is 91"
    )


@pytest.mark.rule("8.4", "8.5")
@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        (
            "frequency: {shelf_life_days: 29}\n",
            "frequency.shelf_life_days: what the rule 9 in 30 days holds may expire",
        ),
        ("frequency: {shelf_life_days: 30}\n", None),
        (OWN_RULES, "frequency.rules: what the rule 9 in 90 days holds may expire first"),
        (OWN_RULES + "  shelf_life_days: 90\n", None),
        ("frequency: {policy: per_policy}\n", None),
    ],
)
def test_what_its_longest_rule_holds_may_expire_first(yaml: str, told: str | None) -> None:
    rules = (FrequencyRuleSettings(max_mails=9, days=30),)
    settings = Settings(frequency=FrequencySettings(enabled=True, rules=rules))
    findings = check(campaign(text=GOOD, yaml=yaml), settings=settings)
    expiring = [str(each) for each in findings if "expire" in each.message]
    if told is None:
        assert expiring == []
    else:
        (one,) = expiring
        assert one.startswith("warning: ")
        assert told in one


@pytest.mark.rule("2.1", "10.2")
def test_a_transactional_campaign_needs_no_unsubscribe_link() -> None:
    assert found(text="Order 3", yaml="transactional: true\n") == []
    assert found(text="Order 3") == ["warning: message.txt.j2: has no unsubscribe link (unsubscribe_url)"]


@pytest.mark.rule("2.1")
def test_an_attribute_that_the_sample_contact_lacks_is_told_as_that() -> None:
    needs = "required_attributes: [order]\n"
    said = "the attribute order is absent or empty"
    assert found(text=GOOD, yaml=needs + "sample_contact: {name: Ann}\n") == [
        f"error: campaign.yaml: sample_contact: {said}"
    ]
    assert found(text=GOOD, yaml=needs) == [f"warning: campaign.yaml: there is no sample_contact: {said}"]


@pytest.mark.rule("2.1")
def test_links_and_images() -> None:
    assert found(html="<img src='cid:a'>", yaml="inline: {b: b.png}\n", b__png=b"x") == [
        "error: message.html.j2:1: shows cid:a, which is not among the inline images",
        "warning: campaign.yaml: inline.b is shown by no template",
        "warning: message.html.j2: has no unsubscribe link (unsubscribe_url)",
    ]
    assert found(
        html=GOOD + "\n<img src='logo.png'><img src='https://e.org/b.png'><img src='{{ unsubscribe_url }}'>"
    ) == [
        "warning: message.html.j2:2: shows logo.png, which no mail program can find: "
        "use https://… or an inline image",
    ]
    assert "warning: message.html.j2:2: `safe` lets values from data write HTML" in found(
        html=GOOD + "\n{{ x | safe }}"
    )
    assert "error: message.txt.j2:1: there is no template x.j2" in found(text=GOOD + "{% include 'x.j2' %}")


@pytest.mark.rule("1.6")
def test_components_that_there_are_not() -> None:
    assert found(text=GOOD, yaml="components: {filter: ['nowhere:at_all', 'builtins:len']}\n") == [
        "error: campaign.yaml: component nowhere:at_all (stage filter): No module named 'nowhere'"
    ]


@pytest.mark.rule("2.1")
def test_sizes_and_limits() -> None:
    assert found(text=GOOD, html=GOOD + "x" * 110_000)[0].startswith(
        "warning: message.html.j2: the HTML has 114,"
    )
    big = found(text=GOOD, yaml="attachments: [{path: a.bin}]\n", a__bin=b"x" * 1_500_000)
    assert big[0].startswith("warning: campaign.yaml: a message has 2,0")
    assert found(text=GOOD + "{{ 'x' | center(10 ** 9) }}") == [
        "error: message.txt.j2:1: took too much memory",
    ]
