"""Column schemas of assets, taken from the pandera models, so that a table is described in one place only."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pandera.pandas as pa


def column_schema(model: type[pa.DataFrameModel]) -> dg.TableSchema:
    """Return the columns of a pandera model as Dagster shows them: name, type, description and constraints."""
    schema = model.to_schema()
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=name,
                type=str(column.dtype),
                description=column.description or None,
                constraints=dg.TableColumnConstraints(
                    nullable=column.nullable,
                    unique=column.unique,
                    other=[str(check.error or check.name) for check in column.checks],
                ),
            )
            for name, column in schema.columns.items()
        ]
    )


def schema_metadata(model: type[pa.DataFrameModel]) -> dict[str, Any]:
    """Return the metadata entry that the UI shows as the asset's columns."""
    return {"dagster/column_schema": column_schema(model)}
