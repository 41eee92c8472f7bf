"""Custom components: Python callables that a campaign names for a stage (spec 1.6).

A component is called with a batch of what its stage works on, such as a list of `kernel.model.Recipient`, and returns
the `Bypass` of each one that later stages shall skip, or nothing:

    def only_customers(recipients: Sequence[Recipient]) -> Iterable[Bypass]:
        for recipient in recipients:
            if not recipient.attributes.get("customer_since"):
                yield Bypass(recipient_no=recipient.recipient_no, reason="no_customer")

It is found by its dotted path `package.module:callable`, or as an entry point of the group
`mail_orchestration.components`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

from mail_orchestration.kernel.errors import ComponentFailed, NotFound
from mail_orchestration.kernel.model import Bypass

ENTRY_POINT_GROUP = "mail_orchestration.components"

_REASON = re.compile(r"[a-z][a-z0-9_:.-]{0,62}")


class Numbered(Protocol):
    """What a batch is made of: something about one recipient of the release."""

    @property
    def recipient_no(self) -> int: ...


N = TypeVar("N", bound=Numbered)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One custom component of one stage, found and ready."""

    name: str
    """As the campaign names it."""
    stage: str
    function: Callable[[Sequence[Any]], Iterable[Bypass] | None]


def load_components(named: Mapping[Any, Sequence[str]], stage: str) -> tuple[Component, ...]:
    """The components that a campaign (`stage → names`) has for `stage`, in its order. Raises as `find_component`."""
    return tuple(find_component(name, stage) for name in named.get(stage, ()))


def find_component(name: str, stage: str) -> Component:
    """Find a component by dotted path or entry point.

    Raises NotFound naming component and stage when there is none by that name, ComponentFailed when its module raises.
    """
    try:
        function = _import(name) if ":" in name else _entry_point(name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise NotFound(f"component {name} (stage {stage}): {error}") from None
    except Exception as error:
        _fail(name, stage, "could not be imported", error)
    if not callable(function):
        raise NotFound(
            f"component {name} (stage {stage}): it is {type(function).__name__}, which cannot be called"
        )
    return Component(name=name, stage=stage, function=function)


def run_components(components: Iterable[Component], batch: Sequence[N]) -> list[tuple[Component, Bypass]]:
    """Call the components in turn, each with those of `batch` that none before it has bypassed.

    Returns each bypass with the component that set it. Raises ComponentFailed, naming component and stage, when one
    raises or returns anything but bypasses of recipients that it was given.
    """
    found: list[tuple[Component, Bypass]] = []
    for component in components:
        if not batch:
            break
        bypassed: set[int] = set()
        known = {item.recipient_no for item in batch}
        for bypass in _call(component, batch):
            _check(component, bypass, known)
            if bypass.recipient_no not in bypassed:
                bypassed.add(bypass.recipient_no)
                found.append((component, bypass))
        if bypassed:
            batch = [item for item in batch if item.recipient_no not in bypassed]
    return found


def _import(path: str) -> object:
    module, _, attributes = path.partition(":")
    return reduce(getattr, attributes.split("."), import_module(module))


def _entry_point(name: str) -> object:
    found = list(metadata.entry_points(group=ENTRY_POINT_GROUP, name=name))
    if not found:
        known = ", ".join(sorted(metadata.entry_points(group=ENTRY_POINT_GROUP).names)) or "none"
        raise AttributeError(f"no entry point of {ENTRY_POINT_GROUP} has this name (there are: {known})")
    return found[0].load()


def _call(component: Component, batch: Sequence[N]) -> list[Bypass]:
    try:
        # A generator's faults come while it is read, so it is read here.
        return list(component.function(batch) or ())
    except Exception as error:
        _fail(component.name, component.stage, "raised", error)


def _check(component: Component, bypass: object, known: set[int]) -> None:
    if not isinstance(bypass, Bypass):
        fault = f"returned {type(bypass).__name__}, not Bypass"
    elif bypass.recipient_no not in known:
        fault = f"bypassed recipient {bypass.recipient_no!r}, which it was not given"
    elif not isinstance(bypass.reason, str) or not _REASON.fullmatch(bypass.reason):
        fault = (
            f"gave the reason {bypass.reason!r}: a short word in lower case is needed, such as no_customer"
        )
    else:
        return
    raise ComponentFailed(f"component {component.name} (stage {component.stage}) {fault}")


def _fail(name: str, stage: str, what: str, error: Exception) -> NoReturn:
    # Its message is left out, and the error is not chained: both may quote a recipient, and anybody may read them.
    raise ComponentFailed(
        f"component {name} (stage {stage}) {what}: {type(error).__name__}{_place(error)}"
    ) from None


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
