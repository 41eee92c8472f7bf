"""The text part of an HTML body, when the campaign gives none (spec 2.2).

`inscriptis` lays out tables well and takes 4 ms for 10 KB, twenty times what the rest of a message takes. But
it depends on the HTML's *shape* only: so the template is rendered a second time with a marker in the place of
each value, what comes out (the same for all recipients that take the same branches and loops) is laid out
once, and the values are put where their markers went.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from inscriptis import get_text
from inscriptis.model.config import ParserConfig
from jinja2 import StrictUndefined, Template, Undefined, nodes, pass_eval_context
from jinja2.nodes import EvalContext
from markupsafe import Markup

from mail_orchestration.composition.errors import CompositionError, FaultReason
from mail_orchestration.composition.printing import refuse_none
from mail_orchestration.composition.templates import (
    CampaignEnvironment,
    compile_template,
    parse_template,
    render,
)

_OPEN, _CLOSE = "\ue000", "\ue001"
"""Private-use characters: no text has them for a meaning of its own (Unicode §23.5)."""
_MARKER = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")
_STRAY = re.compile(f"[{_OPEN}{_CLOSE}]")
_WHITE_SPACE = re.compile(r"[ \t\r\n\f]+")
"""What HTML shows as one space."""
_REMEMBERED = 64
_CAPTURING = (nodes.AssignBlock, nodes.FilterBlock, nodes.CallBlock, nodes.Macro)
"""With these a template can read its own output, and a marker in it could turn a branch."""

_LAYOUT = ParserConfig(display_links=True, display_images=False)


def text_of(html: str) -> str:
    """The text that a reader of `html` sees, with its links. Raises `CompositionError`."""
    try:
        text = get_text(html, _LAYOUT) if html.strip() else ""
    except (SyntaxError, ValueError, RecursionError):  # lxml's ParserError is a SyntaxError
        raise CompositionError(FaultReason.TEMPLATE_ERROR, "the HTML cannot be read as text") from None
    lines = [line.rstrip() for line in text.splitlines()]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"


class TextDeriver:
    """Derives text from what one HTML template renders. Not for several threads at once."""

    def __init__(
        self,
        files: Mapping[str, bytes],
        html_template: str,
        *,
        undefined: type[Undefined] = StrictUndefined,
    ) -> None:
        self._values: list[str] = []
        self._layouts: OrderedDict[str, list[str] | None] = OrderedDict()
        environment = CampaignEnvironment(files, finalize=self._mark, undefined=undefined)
        captures = any(
            parse_template(environment, path, content.decode("utf-8-sig")).find(kind) is not None
            for path, content in files.items()
            if path.endswith(".j2")
            for kind in _CAPTURING
        )
        self._template: Template | None = None if captures else compile_template(environment, html_template)

    def derive(self, html: str, values: dict[str, Any]) -> str:
        """The text of `html`, which the template rendered with `values`."""
        if self._template is None:
            return text_of(html)
        self._values.clear()
        shape = render(self._template, values)
        if shape not in self._layouts:
            self._layouts[shape] = self._lay_out(shape)
            if len(self._layouts) > _REMEMBERED:
                self._layouts.popitem(last=False)
        pieces = self._layouts[shape]
        if pieces is None:
            return text_of(html)
        # pieces: text, number, text, number, … text, as re.split leaves them
        filled = pieces.copy()
        filled[1::2] = [self._values[int(number)] for number in pieces[1::2]]
        return "".join(filled)

    @pass_eval_context
    def _mark(self, context: EvalContext, value: Any) -> Any:
        """The environment's finalize: a marker instead of a value. Markup brings tags and stays."""
        refuse_none(context, value)
        if isinstance(value, Markup):
            return value
        self._values.append(_WHITE_SPACE.sub(" ", _STRAY.sub("", str(value))))
        return f"{_OPEN}{len(self._values) - 1}{_CLOSE}"

    def _lay_out(self, shape: str) -> list[str] | None:
        pieces = _MARKER.split(text_of(shape))
        intact = not any(_STRAY.search(text) for text in pieces[0::2])
        return pieces if intact and all(int(number) < len(self._values) for number in pieces[1::2]) else None
