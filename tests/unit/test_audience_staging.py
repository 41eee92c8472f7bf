"""The check of rows: what COPY is given, what is rejected, and that the two account for every row."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mail_orchestration.audience.rows import Batch, Layout, clean_name
from mail_orchestration.audience.staging import stage
from mail_orchestration.kernel.errors import BadAudience

_HEADER = ["email", "name", "locale", "note"]
_CELL = st.text(st.characters(exclude_categories=()), max_size=12)
_ROWS = st.lists(
    st.tuples(st.one_of(st.sampled_from(["a@b.com", "A@b.com", "c@d.org"]), _CELL), _CELL, _CELL, _CELL),
    max_size=8,
)


def _batch(rows: list[Any], header: list[str] = _HEADER) -> Batch:
    return Batch(layout=Layout.of(header, "email", "test"), lines=range(2, len(rows) + 2), rows=rows)


def _unescaped(cell: str) -> str | None:
    """PostgreSQL's reading of a cell of COPY's text format."""
    if cell == r"\N":
        return None
    plain, rest = "", iter(cell)
    for character in rest:
        plain += (
            {"t": "\t", "n": "\n", "r": "\r"}.get(each := next(rest), each)
            if character == "\\"
            else character
        )
    return plain


@pytest.mark.rule("1.1", "1.2")
@given(_ROWS)
def test_every_row_is_accounted_for_and_comes_through_copy_unchanged(rows: list[tuple[str, ...]]) -> None:
    staged = stage(_batch(rows))
    assert staged.read == len(rows) == len(staged.rows) + staged.repeated + len(staged.rejects)
    originals = dict(enumerate(rows, start=2))
    rejected = {reject.line for reject in staged.rejects}
    usable = [row for line, row in originals.items() if line not in rejected]
    for line in staged.staging_lines().decode().split("\n")[:-1]:
        line.encode()
        assert "\0" not in line
        cells = line.removesuffix("\n").split("\t")
        assert len(cells) == 7
        key, address, body_format, locale, guid, url, attributes = map(_unescaped, cells)
        first = next(row for row in usable if row[0].strip().lower() == key)
        assert address is not None
        assert address.lower() == key
        assert (body_format, guid, url) == (None, None, None)
        assert locale == (first[2].strip() or None)
        assert orjson.loads(attributes or "") == {"name": first[1], "note": first[3]}
    for reject in staged.rejects:
        reject.value.encode()
        assert "\0" not in reject.value + reject.detail


@pytest.mark.rule("1.2")
def test_body_formats_are_words_or_direct_mailers_numbers() -> None:
    formats = ["", "0", "1", "2", "3", "Text", " MIME ", "mhtml", "rtf"]
    rows = [(f"{n}@b.com", each) for n, each in enumerate(formats)]
    staged = stage(_batch(rows, ["email", "body_format"]))
    assert [line.split("\t")[2] for line in staged.staging_lines().decode().split("\n")[:-1]] == [
        *(r"\N", r"\N", "text", "mime", "mhtml", "text", "mime", "mhtml", "rtf")
    ]


@pytest.mark.rule("1.2")
@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("First Name", "first_name"),
        (" E-Mail ", "e_mail"),
        ("2nd", "column_2nd"),
        ("Größe (cm)", "größe_cm"),
        ("__class__", "class"),
        ("", "column_7"),
        ("!!!", "column_7"),
        ("ﬁeld", "field"),
        ("x" * 100, "x" * 63),
    ],
)
def test_columns_become_names_that_templates_can_use(name: str, cleaned: str) -> None:
    assert clean_name(name, 7) == cleaned


@given(st.text(max_size=80))
def test_clean_names_are_identifiers_and_stay_as_they_are(name: str) -> None:
    cleaned = clean_name(name, 1)
    assert cleaned.isidentifier()
    assert not cleaned.startswith("_")
    assert clean_name(cleaned, 2) == cleaned


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(BadAudience, match="columns 2 and 3 are both named 'first_name'"):
        Layout.of(["email", "first name", "First-Name"], "email", "test")
