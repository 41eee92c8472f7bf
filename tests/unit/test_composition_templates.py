"""The sandbox: what a template may not do, and how it is told."""

from __future__ import annotations

import re

import pytest
from composition_campaigns import campaign, composer, recipient
from jinja2.sandbox import SandboxedEnvironment

from mail_orchestration.composition.checking import check, refuse_bad_templates
from mail_orchestration.composition.errors import CompositionError, FaultReason
from mail_orchestration.kernel.errors import BadCampaign


@pytest.mark.rule("2.2")
@pytest.mark.parametrize(
    ("template", "detail"),
    [
        ("Hi\n{{ nobody }}", "message.txt.j2:2: 'nobody' is undefined"),
        ("Hi\n\n{{ contact.nobody }}", "message.txt.j2:3: 'dict object' has no attribute 'nobody'"),
        ("{{ nothing }}", "message.txt.j2:1: The value is empty"),
        ("{{ 1 / 0 }}", "message.txt.j2:1: division by zero"),
        ("{{ ''.__class__.__mro__ }}", "message.txt.j2:1: access to attribute '__class__'"),
        ("{{ [].append(1) }}", "message.txt.j2:1: "),
        ("{{ 'x' * 10000000 }}", "message.txt.j2:1: a repetition is limited"),
        ("{{ 9 ** 99999999 }}", "message.txt.j2:1: the numbers of ** are limited"),
        ("{{ '%99999999d' % 1 }}", "message.txt.j2:1: the width of a format is limited"),
        ("{% for i in range(999999999) %}{% endfor %}", "message.txt.j2:1: a range is longer"),
        ("{% include 'other.j2' %}", "message.txt.j2:1: there is no template other.j2"),
        ("{% include '/etc/passwd' %}", "message.txt.j2:1: there is no template /etc/passwd"),
        ("{{ secret | float | round(1, 'x') }}", "message.txt.j2:1: "),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "message.txt.j2:1: nested too deeply"),
    ],
)
def test_a_fault_names_file_and_line(template: str, detail: str) -> None:
    with pytest.raises(CompositionError) as caught:
        composer(text=template).compose(recipient(nothing=None, secret="s3cret"))
    assert caught.value.reason in (FaultReason.TEMPLATE_ERROR, FaultReason.TEMPLATE_LIMITS)
    assert caught.value.detail.startswith(detail)


def test_a_fault_inside_an_included_file_names_that_file() -> None:
    made = composer(html="<p>\n{% include 'part.html.j2' %}", part__html__j2=b"\n\n{{ gone }}")
    with pytest.raises(CompositionError, match=r"part\.html\.j2:3: 'gone' is undefined"):
        made.compose(recipient())


@pytest.mark.rule("2.1")
@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("Hi\n{% if %}", "t.j2:2: Expected an expression"),
        ("Hi\n{{ 1 | nope }}", "t.j2:2: No filter named 'nope'"),
        ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "t.j2: is nested too deeply to be compiled"),
        ("{% for a in [1] %}" * 30 + "{% endfor %}" * 30, "t.j2: is nested too deeply to be compiled"),
        ("{{ " + "1" * 5_000 + " }}", "t.j2: cannot be compiled: Exceeds the limit"),
    ],
    ids=["syntax", "filter", "parentheses", "loops", "number"],
)
def test_what_does_not_compile_is_a_bad_campaign(template: str, message: str) -> None:
    broken = {"t__j2": template.encode()}
    for body in ("text", "html"):
        with pytest.raises(BadCampaign, match=r"^message\.\w+\.j2"):
            composer(**{body: template})
    with pytest.raises(BadCampaign, match=f"^{re.escape(message)}"):
        refuse_bad_templates(campaign(html="<p>x</p>", text="x", **broken))
    assert f"error: {message}" in str(check(campaign(text="x", **broken))[0])


def test_text_derived_beside_a_template_that_nothing_includes() -> None:
    with pytest.raises(BadCampaign, match=r"^draft\.j2:1: Expected an expression"):
        composer(html="<p>x</p>", draft__j2=b"{% if %}")


def test_data_does_not_get_into_the_detail() -> None:
    with pytest.raises(CompositionError) as caught:
        composer(text="{{ {}[contact.address] if false else ('%d' | format(address)) }}").compose(recipient())
    assert "user1@" not in caught.value.detail


@pytest.mark.rule("2.2")
def test_html_is_escaped_and_text_and_subject_are_not() -> None:
    basics = "name: n\nfrom: a@b.example\naudiences: [x]\nsubject: '{{ v }}'\n"
    message = composer(html="<p>{{ v }}</p>", text="{{ v }}", basics=basics).compose(recipient(v="<b> & 'c'"))
    assert message.html == "<p>&lt;b&gt; &amp; &#39;c&#39;</p>"
    assert message.text == message.subject == "<b> & 'c'"


@pytest.mark.rule("2.2")
@pytest.mark.parametrize(
    "value",
    [
        "a<b>&\"'",
        "ünï😀",
        "",
        "<" * 251,
        "x" * 5000,
        1,
        True,
        1.0,
        1.50,
        ["<a>", 1],
        {"k": "&"},
        "&lt;",
        "1",
        "True",
    ],
)
def test_what_html_prints_is_what_jinja2_prints(value: object) -> None:
    template = (
        "{{ v }}{{ v | safe }}{{ v | e }}{{ [v] }}{{ v ~ '<' }}{{ '<' }}{{ 7 }}"
        "{% set block %}<i>{{ v }}</i>{% endset %}{{ block }}{% macro m(a) %}<u>{{ a }}</u>{% endmacro %}{{ m(v) }}"
        "{% filter upper %}{{ v }}{% endfilter %}"
        "{% autoescape false %}{{ v }}{% endautoescape %}{% autoescape on %}{{ v }}{% endautoescape %}"
    )
    expected = SandboxedEnvironment(autoescape=True).from_string(template).render(v=value, on=True)
    one = composer(html=template, text="{{ v }}", yaml="variables: { on: true }")
    for _ in range(2):  # what is remembered of the first is the same
        assert one.compose(recipient(v=value)).html == expected


def test_nothing_is_printed_in_html_for_null_either() -> None:
    with pytest.raises(CompositionError) as caught:
        composer(html="<p>\n{{ v }}</p>", text="x").compose(recipient(v=None))
    assert caught.value.detail.startswith("message.html.j2:2: The value is empty")


def test_a_template_changes_no_global_for_the_next_message() -> None:
    one = composer(
        text="{% if name == 'a' %}{% set range = name %}{{ range }}{% else %}{{ range(2) | list }}{% endif %}"
    )
    assert [one.compose(recipient(name=name)).text for name in "aba"] == ["a", "[0, 1]", "a"]


@pytest.mark.parametrize(
    "link",
    [
        "javascript:alert(1)",
        "JaVaScript:x",
        " data:text/html,x",
        "//x.example",
        "java\tscript:x",
        "",
        "file:///x",
    ],
)
@pytest.mark.parametrize(
    "html",
    [
        '<a href="{{ v }}">',
        "<a href='{{ v }}'>",
        "<a href={{ v }}>",
        '<img SRC = "{{ v }}?x">',
        "{{ v | url }}",
        '<a href="{% if v is defined %}{{ v }}{% else %}https://x.example{% endif %}">',
        '<a href="{% if 0 %}https://x.example{% elif 1 %}{{ v }}{% else %}{{ v }}{% endif %}">',
        '<a href="{% if 0 %}https://x.example/{% endif %}{{ v }}">',
        '{% for u in [v] %}<a href="{% with w = u %}{{ w }}{% endwith %}">{% endfor %}',
        '{% macro a(u) %}<a href="{{ u }}">{% endmacro %}{{ a(v) }}',
    ],
)
def test_a_link_from_data_is_https_or_mailto(html: str, link: str) -> None:
    made = composer(html=html + "x", text="x")
    with pytest.raises(CompositionError, match="neither http, https nor mailto"):
        made.compose(recipient(v=link))
    for good in ("https://x.example/ü?a=1&b=2", "http://x.example", "mailto:a@x.example"):
        assert made.compose(recipient(v=good)).html


@pytest.mark.parametrize("name", ["items", "values", "keys", "get", "name", "copy"])
def test_columns_named_like_methods(name: str) -> None:
    message = composer(text="{{ contact." + name + " }} {{ " + name + " }}").compose(recipient(**{name: "v"}))
    assert message.text == "v v"


def test_our_names_win_over_attributes() -> None:
    message = composer(text="{{ unsubscribe_url }} {{ contact.unsubscribe_url }} {{ view }}").compose(
        recipient(unsubscribe_url="mine", view="mine")
    )
    assert message.text is not None
    assert message.text.startswith("https://mail.shop.example/u/")
    assert message.text.endswith(" mine text")
