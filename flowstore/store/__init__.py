"""Everything that knows SQLite: the schema, opening a file, bytes, and rows."""
