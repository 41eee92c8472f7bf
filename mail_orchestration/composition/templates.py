"""Templates: Jinja2 in a sandbox, with undefined names as errors and HTML escaped (spec 2.2).

A template sees plain values only, changes none of them, reaches no file outside its campaign, and every fault
in it is told with file and line. What a sandbox cannot bound, time and memory, is bounded by `limits` and
`assembly`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import quote

from jinja2 import (
    BaseLoader,
    Environment,
    Template,
    TemplateNotFound,
    TemplateSyntaxError,
    Undefined,
    nodes,
)
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.nodes import EvalContext
from jinja2.runtime import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from mail_orchestration.composition.errors import CompositionError, FaultReason
from mail_orchestration.composition.printing import Printing, printed_in_html, refuse_none
from mail_orchestration.kernel.errors import BadCampaign

MAXIMUM_RENDERED_CHARACTERS = 5_000_000
_MAXIMUM_REPETITION = 1_000_000
_MAXIMUM_EXPONENT = 1_000
_URL_ATTRIBUTE = re.compile(r"""(?:href|src|action|background|cite|poster)\s*=\s*["']?\s*\Z""", re.IGNORECASE)
_SAFE_URL = re.compile(r"(?:https?://[^\s<>\"]+|mailto:[^\s<>\"]+)", re.IGNORECASE)

Finalize = Callable[[EvalContext, Any], Any]

COMPILE_FAULTS = (TemplateSyntaxError, SyntaxError, ValueError, OverflowError, RecursionError, MemoryError)
"""What compiling raises: besides Jinja2's own, what Python's compiler makes of deep nesting and endless numbers."""


class BadLink(TemplateError):
    """A link from data is neither http, https nor mailto."""


class _FilesLoader(BaseLoader):
    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, None]:
        if template not in self._files:
            raise TemplateNotFound(template)
        try:
            return self._files[template].decode("utf-8-sig"), template, None
        except UnicodeDecodeError as fault:
            line = self._files[template].count(b"\n", 0, fault.start) + 1
            raise TemplateSyntaxError("is not UTF-8", line, template, template) from None


class CampaignEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox in which all templates of one campaign are rendered."""

    intercepted_binops = frozenset({"*", "**", "%"})
    code_generator_class = Printing
    printed_in_html = staticmethod(printed_in_html)

    def __init__(
        self,
        files: Mapping[str, bytes],
        finalize: Finalize | None = None,
        undefined: type[Undefined] = StrictUndefined,
    ) -> None:
        super().__init__(
            loader=_FilesLoader(files),
            undefined=undefined,
            autoescape=lambda name: name is not None and name.endswith((".html", ".html.j2")),
            finalize=finalize or refuse_none,
            keep_trailing_newline=True,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            cache_size=-1,
            # The optimizer would evaluate `"a" * 10**9` while compiling, outside every limit.
            optimized=False,
        )
        self.filters["url"] = self.filters["link"] = safe_url
        self.filters["urlencode"] = lambda value: quote(str(value), safe="")

    def make_globals(self, d: MutableMapping[str, Any] | None) -> MutableMapping[str, Any]:
        """A plain dict: every rendering copies it, and of Jinja2's ChainMap that takes several microseconds."""
        return {**self.globals, **(d or {})}

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Keys of data before methods of dict: `contact.items` is the column of that name."""
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """`*`, `**` and `%` make gigabytes out of a few characters in one step that nothing can interrupt."""
        if operator == "**" and not (_is_small(left) and _is_small(right)):
            raise SecurityError(f"the numbers of ** are limited to {_MAXIMUM_EXPONENT}")
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                repeats = isinstance(sequence, (str, list, tuple)) and isinstance(times, int)
                if repeats and len(sequence) * times > _MAXIMUM_REPETITION:
                    raise SecurityError(f"a repetition is limited to {_MAXIMUM_REPETITION} characters")
        if operator == "%" and isinstance(left, str) and re.search(r"\d{5}|\*", left):
            raise SecurityError("the width of a format is limited to 9999")
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        if name is not None and name.endswith((".html", ".html.j2")):
            _guard_urls(tree.body)
        return tree


def compile_template(environment: CampaignEnvironment, name: str, source: str | None = None) -> Template:
    """The template file `name`, or `source` under that name. Raises `BadCampaign` naming file and line."""
    try:
        if source is None:
            return environment.get_template(name)
        code = environment.compile(source, name=name, filename=name)
        return environment.template_class.from_code(environment, code, environment.make_globals(None))
    except TemplateNotFound as fault:
        raise BadCampaign(f"{name}: there is no template {fault.name}") from None
    except COMPILE_FAULTS as fault:
        raise _bad_template(fault, name) from None


def parse_template(environment: CampaignEnvironment, name: str, source: str) -> nodes.Template:
    """The template's syntax tree. Raises `BadCampaign` naming file and line."""
    try:
        return environment.parse(source, name)
    except COMPILE_FAULTS as fault:
        raise _bad_template(fault, name) from None


def compile_fault(fault: Exception, name: str) -> tuple[str, int | None, str]:
    """File, line and message of one of `COMPILE_FAULTS` in the template `name`."""
    match fault:
        case TemplateSyntaxError():
            return fault.name or name, fault.lineno, fault.message or "is no template"
        case RecursionError() | MemoryError() | SyntaxError():  # "too many statically nested blocks"
            return name, None, "is nested too deeply to be compiled"
        case _:  # int() of more than 4,300 digits
            return name, None, f"cannot be compiled: {str(fault).partition(':')[0]}"


def _bad_template(fault: Exception, name: str) -> BadCampaign:
    file, line, message = compile_fault(fault, name)
    return BadCampaign(f"{file}: {message}" if line is None else f"{file}:{line}: {message}")


def render(template: Template, values: dict[str, Any]) -> str:
    """The template with `values`. Raises `CompositionError` naming file and line."""
    try:
        text = "".join(template.root_render_func(template.new_context(values)))
    except (MemoryError, RecursionError) as fault:
        raise CompositionError(
            FaultReason.TEMPLATE_LIMITS, f"{place_of(fault, template)}: {_kind(fault)}"
        ) from None
    except CompositionError:
        raise
    except Exception as fault:  # whatever a template can do to itself ends as this recipient's bypass reason
        raise CompositionError(
            FaultReason.TEMPLATE_ERROR, f"{place_of(fault, template)}: {_kind(fault)}"
        ) from None
    if len(text) > MAXIMUM_RENDERED_CHARACTERS:
        raise CompositionError(
            FaultReason.TEMPLATE_LIMITS,
            f"{template.name}: wrote {len(text)} characters, more than {MAXIMUM_RENDERED_CHARACTERS}",
        )
    return text


def safe_url(value: Any) -> Any:
    """The filter `url` (also `link`): http, https and mailto pass, everything else is an error."""
    if isinstance(value, Undefined):
        return value
    text = str(value.unescape() if isinstance(value, Markup) else value).strip()
    if not _SAFE_URL.fullmatch(text):
        raise BadLink((BadLink.__doc__ or "").strip())
    return value


def _guard_urls(body: Sequence[nodes.Node], at_url: bool = False) -> bool:
    """Apply the filter `url` to whatever may begin a URL attribute, so that no data brings `javascript:`.

    `at_url`: whether `body` follows upon `href="` or the like. Returns whether what follows upon `body` does.
    """
    for node in body:
        if isinstance(node, nodes.Output):
            at_url = _guard_output(node, at_url)
        elif isinstance(node, nodes.If):
            branches = [node.body, *(each.body for each in node.elif_), node.else_]
            at_url = True in [_guard_urls(each, at_url) for each in branches]
        elif isinstance(node, nodes.For):
            at_url = True in [at_url, *(_guard_urls(each, at_url) for each in (node.body, node.else_))]
        else:
            at_url = _guard_urls(getattr(node, "body", ()), at_url)
    return at_url


def _guard_output(output: nodes.Output, at_url: bool) -> bool:
    for position, each in enumerate(output.nodes):
        if isinstance(each, nodes.TemplateData):
            at_url = _URL_ATTRIBUTE.search(each.data) is not None or (at_url and each.data.isspace())
        elif at_url:
            guarded = nodes.Filter(each, "url", [], [], None, None, lineno=each.lineno)
            guarded.set_environment(output.environment)  # type: ignore[arg-type]
            output.nodes[position] = guarded
            at_url = False
    return at_url


def _is_small(value: Any) -> bool:
    return not isinstance(value, int) or abs(value) <= _MAXIMUM_EXPONENT


def place_of(fault: BaseException, template: Template | None = None) -> str:
    """file:line of the innermost template frame that `fault` came through."""
    place = str(template.name) if template is not None else "the template"
    trace: TracebackType | None = fault.__traceback__
    while trace is not None:
        inner = trace.tb_frame.f_globals.get("__jinja_template__")
        if isinstance(inner, Template):
            place = f"{inner.name}:{inner.get_corresponding_lineno(trace.tb_lineno)}"
        trace = trace.tb_next
    return place


def _kind(fault: BaseException) -> str:
    """What went wrong, without the data that a ValueError or KeyError has in its message."""
    match fault:
        case MemoryError():
            return "took too much memory"
        case RecursionError():
            return "nested too deeply"
        case TemplateNotFound():
            return f"there is no template {fault.name}"
        case TemplateSyntaxError():
            return f"{fault.name}:{fault.lineno}: {fault.message}"
        case TemplateError() | TypeError() | ZeroDivisionError():
            return f"{fault}"
        case OverflowError() if "Range too big" in str(fault):
            return "a range is longer than the sandbox allows"
        case _:
            return type(fault).__name__
