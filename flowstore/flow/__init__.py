"""The classes from which users write flows: steps, parameters, decorators. Knows neither SQLite nor processes."""
