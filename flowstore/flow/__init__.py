"""What a user writes: flows, steps, parameters, decorators. Knows neither SQLite nor processes."""
