"""The source that the settings describe for an audience."""

from __future__ import annotations

import os
from pathlib import Path

from mail_orchestration.audience.sources import (
    CsvSource,
    DirectMailerSource,
    ParquetSource,
    Source,
    SqlSource,
)
from mail_orchestration.kernel.errors import BadSettings
from mail_orchestration.kernel.settings import AudienceSettings


def source_of_settings(described: AudienceSettings, *, own_url: str) -> Source:
    """The one source that the settings name; SQL without a URL of its own runs on `own_url`.

    Raises BadSettings when there is no source, or its URL is not in the environment.
    """
    column = described.address_column
    match described:
        case AudienceSettings(csv=Path() as file):
            return CsvSource(
                path=file,
                address_column=column,
                encoding=described.encoding,
                delimiter=described.delimiter,
            )
        case AudienceSettings(parquet=Path() as file):
            return ParquetSource(path=file, address_column=column)
        case AudienceSettings(direct_mailer=Path() as file):
            return DirectMailerSource(path=file, encoding=described.encoding)
        case AudienceSettings(sql=str() as query):
            url = own_url
            if described.sql_url_env is not None and not (url := os.environ.get(described.sql_url_env, "")):
                raise BadSettings(
                    f"audience {described.name}: sql_url_env names {described.sql_url_env}, "
                    "which is not in the environment"
                )
            return SqlSource(url=url, query=query, address_column=column)
        case _:
            raise BadSettings(f"audience {described.name}: the settings name no source to fill it from")
