"""Small flows to read, run and copy: `penguins`, `features` and `predictions` in plain Python; `digits` with more."""
