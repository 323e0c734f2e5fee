"""Files and connections of SQLite: knows no flow."""
