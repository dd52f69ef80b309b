"""Prints what DuckDB and pyarrow read of a Parquet file, as JSON: {duckdb: {types, rows}, pyarrow: {types, rows}}."""
import json
import sys

import duckdb
import pyarrow.parquet

path = sys.argv[1]


def text(value):
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


db = duckdb.connect()
db.execute("SET TimeZone = 'UTC'")
described = db.execute("DESCRIBE SELECT * FROM read_parquet(?)", [path]).fetchall()
casts = ", ".join(
    f'hex("{name}")' if kind == "BLOB" else f'CAST("{name}" AS VARCHAR)' for name, kind, *_ in described
)
by_duckdb = {
    "types": [kind for _, kind, *_ in described],
    "rows": db.execute(f"SELECT {casts} FROM read_parquet(?)", [path]).fetchall(),
}
table = pyarrow.parquet.read_table(path)
by_pyarrow = {
    "types": [str(field.type) for field in table.schema],
    "rows": [[text(value) for value in row.values()] for row in table.to_pylist()],
}
json.dump({"duckdb": by_duckdb, "pyarrow": by_pyarrow}, sys.stdout)
