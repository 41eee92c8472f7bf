"""Values that must not be shown."""

from __future__ import annotations

from typing import Generic, TypeVar

Value = TypeVar("Value", bound=str | bytes)


class Secret(Generic[Value]):
    """A text or octets that neither `repr`, `str` nor a log shows."""

    __slots__ = ("_value",)

    def __init__(self, value: Value) -> None:
        self._value = value

    def reveal(self) -> Value:
        """The secret itself, for the moment of its use."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)
