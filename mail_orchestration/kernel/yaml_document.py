"""YAML files that people write, checked so that every error names file, line and key.

A document is read as YAML 1.2's core schema (`on`, `no` and `12:30` are plain words, not booleans and
numbers), without aliases, and validated by a pydantic model. What is wrong is said in one `BadInput`, a line
per fault.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from mail_orchestration.kernel.errors import BadInput
from mail_orchestration.kernel.near_names import suggestion

Model = TypeVar("Model", bound=BaseModel)
Location = tuple[str | int, ...]

MAXIMUM_CHARACTERS = 1_000_000
_MAXIMUM_DEPTH = 50


def read_yaml(text: str | bytes, *, file: str, model: type[Model], error: type[BadInput] = BadInput) -> Model:
    """The document `text` as a `model`.

    Raises `error`, with one line `file:line: key: what is wrong` for each fault.
    """
    values, lines = parse_yaml(text, file=file, error=error)
    try:
        return model.model_validate(values)
    except ValidationError as fault:
        faults = fault.errors()
        told = [_describe(each, model, file, lines) for each in faults if not _follows(each, faults)]
        raise error("\n".join(told)) from None


def read_yaml_file(file: Path, *, model: type[Model], error: type[BadInput] = BadInput) -> Model:
    """The document that `file` holds, as `read_yaml` reads it. Raises `error` too where it cannot be read."""
    try:
        text = file.read_bytes()
    except OSError as fault:
        raise error(f"{file}: cannot be read: {fault.strerror}") from None
    return read_yaml(text, file=str(file), model=model, error=error)


def parse_yaml(
    text: str | bytes, *, file: str, error: type[BadInput] = BadInput
) -> tuple[dict[Any, Any], Mapping[Location, int]]:
    """The mapping that `text` holds, and the line (from 1) on which each of its keys and items stands."""
    text = _decoded(text, file, error)
    if len(text) > MAXIMUM_CHARACTERS:
        raise error(f"{file}: has {len(text)} characters, more than {MAXIMUM_CHARACTERS}")
    lines: dict[Location, int] = {(): 1}
    loader = None
    try:
        loader = _CoreLoader(text)
        root = loader.get_single_node()
        if root is None:
            return {}, lines
        if not isinstance(root, yaml.MappingNode):
            raise _Fault(root.start_mark.line, "", "expected a mapping of keys to values")
        _locate(root, (), lines)
        values = loader.construct_document(root)
    except _Fault as fault:
        raise error(_line(file, fault.line + 1, fault.key, fault.message)) from None
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark or fault.context_mark
        raise error(_line(file, mark.line + 1 if mark else 1, "", fault.problem or "not YAML")) from None
    except yaml.reader.ReaderError as fault:
        line = text.count("\n", 0, fault.position) + 1
        raise error(f"{file}:{line}: the control character U+{fault.character:04X} is not allowed") from None
    except yaml.YAMLError as fault:
        raise error(f"{file}: {str(fault).splitlines()[0]}") from None
    except (ValueError, RecursionError):
        raise error(f"{file}: not YAML that can be read") from None
    finally:
        if loader is not None:
            loader.dispose()
    return values, lines


class _Fault(Exception):
    def __init__(self, line: int, key: str, message: str) -> None:
        self.line, self.key, self.message = line, key, message


class _CoreLoader(yaml.SafeLoader):
    """Safe YAML without the surprises of YAML 1.1: only true/false, null, decimal and float are not text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            # A dozen lines of aliases of aliases expand to gigabytes.
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise _Fault(mark.line, "", "aliases (*name) are not allowed")
        return super().compose_node(parent, index)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"null|Null|NULL|~|", ["n", "N", "~", ""]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", "-+0123456789."),
):
    _CoreLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
    )


def _decoded(text: str | bytes, file: str, error: type[BadInput]) -> str:
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        line = text.count(b"\n", 0, fault.start) + 1
        raise error(f"{file}:{line}: is not UTF-8 (byte 0x{text[fault.start]:02x})") from None


def _locate(node: yaml.Node, at: Location, lines: dict[Location, int]) -> None:
    if len(at) > _MAXIMUM_DEPTH:
        raise _Fault(node.start_mark.line, _dotted(at[:3]), "nested too deeply")
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Fault(key.start_mark.line, _dotted(at), "a key must be a plain word")
            here = (*at, key.value)
            if here in lines:
                raise _Fault(key.start_mark.line, _dotted(here), f"stands twice, first on line {lines[here]}")
            lines[here] = key.start_mark.line + 1
            _locate(value, here, lines)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            lines[*at, index] = item.start_mark.line + 1
            _locate(item, (*at, index), lines)


def _describe(fault: Any, model: type[BaseModel], file: str, lines: Mapping[Location, int]) -> str:
    at: Location = fault["loc"]
    # pydantic adds the names of union members and "[key]" to the location; what stands in the file does not.
    known = tuple(at)
    while known and known not in lines:
        known = known[:-1]
    message = fault["msg"].removeprefix("Value error, ")
    match fault["type"]:
        case "extra_forbidden":
            message = "unknown key" + _suggestion(str(at[-1]), model, at[:-1])
        case "missing":
            message, known = "is missing", known
            return _line(file, lines[known], _dotted(at), message)
        case "tuple_type" | "list_type":
            message = "should be a list"
        case "model_type" | "model_attributes_type" | "dict_type" | "mapping_type" | "dataclass_type":
            message = "should be a mapping of keys and values"
        case _:
            message = message[:1].lower() + message[1:]
    return _line(file, lines[known], _dotted(known or at), message)


def _follows(fault: Any, faults: Sequence[Any]) -> bool:
    """Whether a list is too short because pydantic does not count an item that is wrong, of which it tells too."""
    at: Location = fault["loc"]
    return fault["type"] == "too_short" and any(
        len(each["loc"]) > len(at) and each["loc"][: len(at)] == at for each in faults
    )


def _suggestion(key: str, model: type[BaseModel], parents: Sequence[str | int]) -> str:
    found: type[BaseModel] | None = model
    for parent in parents:
        if isinstance(parent, str) and found is not None:
            found = _model_of_key(found, parent)
    if found is None:
        return ""
    names = [field.alias or name for name, field in found.model_fields.items()]
    return suggestion(key, names)


def _model_of_key(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    for name, field in model.model_fields.items():
        if key in (name, field.alias):
            return _first_model(field.annotation)
    return None


def _first_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for each in get_args(annotation) if (found := _first_model(each))), None)


def _dotted(at: Sequence[str | int]) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).removeprefix(".")


def _line(file: str, line: int, key: str, message: str) -> str:
    return f"{file}:{line}: {key}: {message}" if key else f"{file}:{line}: {message}"
