"""Text laid out once per shape is the text laid out each time."""

from __future__ import annotations

from typing import Any

import pytest
from composition_campaigns import composer, recipient
from hypothesis import given, settings
from hypothesis import strategies as st

from mail_orchestration.composition.text_part import text_of

WORDS = st.text(
    st.characters(exclude_categories=["Cc", "Cs", "Co", "Zl", "Zp"]), min_size=1, max_size=20
).filter(lambda each: each.strip() != "" and not each.isspace())
HTML = """<h1>Hi {{ name }}!</h1>
{% if city %}<p>To <b>{{ city }}</b> we go.</p>{% else %}<p>Stay.</p>{% endif %}
<ul>{% for each in wishes %}<li>{{ each }} {{ loop.index }}</li>{% endfor %}</ul>
<p>Bye <a href="https://x.example/{{ wishes | length }}">here</a></p>"""
MADE = composer(html=HTML)


@pytest.mark.rule("2.2")
@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(WORDS, st.none() | WORDS, st.lists(WORDS, max_size=3)), min_size=1, max_size=5))
def test_as_inscriptis_would_lay_it_out_each_time(people: list[tuple[str, str | None, list[str]]]) -> None:
    for name, city, wishes in people:
        message = MADE.compose(recipient(name=name, city=city, wishes=wishes))
        assert message.html is not None
        assert message.text is not None
        assert message.text.split() == text_of(message.html).split()


@pytest.mark.parametrize(
    "html",
    [
        "{% set x %}{{ v }}{% endset %}<p>{% if x == 'yes' %}right{% else %}wrong{% endif %} {{ x }}</p>",
        "{% macro m(a) %}<b>{{ a }}</b>{% endmacro %}<p>{{ m(v) }} right</p>",
        "{% filter upper %}<p>{{ v }} right</p>{% endfilter %}",
        "<p>{{ v | e }} {{ ('<i>' ~ v ~ '</i>') | safe }} right</p>",
        "<p>{{ v | truncate(2, true, '') }} {{ v | upper }} right</p>",
    ],
)
@pytest.mark.parametrize("value", ["yes", "no & <b>", "\ue0000\ue001", "\ue0009\ue001"])
def test_templates_that_read_their_own_output(html: str, value: Any) -> None:
    message = composer(html=html).compose(recipient(v=value))
    assert message.html is not None
    assert message.text is not None
    strip = str.maketrans("", "", "\ue000\ue001")
    assert message.text.translate(strip).split() == text_of(message.html).translate(strip).split()
