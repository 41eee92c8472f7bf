"""What all sections of the settings file have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]


class Section(BaseModel):
    """A mapping in the settings file: unknown keys are refused, and nothing changes it once it was read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def check_names(section: str, names: Sequence[str]) -> None:
    """Raises ValueError where two have the same name."""
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{section}: two are named {name!r}")


def _time_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (
        ZoneInfoNotFoundError,
        ValueError,
        OSError,
    ) as error:  # OSError: a folder of zones, such as Europe
        raise ValueError(f"there is no time zone named {value!r}") from error
    return value


TimeZoneName = Annotated[str, AfterValidator(_time_zone)]
