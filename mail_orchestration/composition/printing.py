"""What a template prints goes through here: nothing is printed for null, and HTML is escaped (spec 2.2)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import nodes, pass_eval_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.exceptions import TemplateError
from jinja2.nodes import EvalContext
from markupsafe import escape

_LONGEST_REMEMBERED = 250


class PrintsNothing(TemplateError):
    """The value is empty (null): say what to print instead, as in `{{ name or 'reader' }}`."""


@pass_eval_context
def refuse_none(context: EvalContext | None, value: Any) -> Any:
    """What each printed value goes through: nobody shall read "Dear None".

    It asks for the context because the compiler then leaves constants to run time, under limits.
    """
    if value is None:
        raise PrintsNothing((PrintsNothing.__doc__ or "").strip())
    return value


def printed_in_html(value: Any) -> str:
    """`refuse_none` and `escape` in one. To escape takes 1 µs, and much of what is printed is always the same."""
    if type(value) is str and len(value) <= _LONGEST_REMEMBERED:
        return _escaped(value)
    return escape(refuse_none(None, value))


@lru_cache(maxsize=1024)
def _escaped(text: str) -> str:
    return escape(text)


class Printing(CodeGenerator):
    """Where HTML is escaped, each printed value is one call of `printed_in_html`."""

    def _output_child_pre(
        self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo
    ) -> None:
        if self._is_one_call(frame):
            self.write("environment.printed_in_html(")
        else:
            super()._output_child_pre(node, frame, finalize)

    def _output_child_post(
        self, node: nodes.Expr, frame: Frame, finalize: CodeGenerator._FinalizeInfo
    ) -> None:
        if self._is_one_call(frame):
            self.write(")")
        else:
            super()._output_child_post(node, frame, finalize)

    def _is_one_call(self, frame: Frame) -> bool:
        escapes = frame.eval_ctx.autoescape and not frame.eval_ctx.volatile
        return escapes and self.environment.finalize is refuse_none
