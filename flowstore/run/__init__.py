"""Making runs happen: a pure plan, a driver that alone writes, and processes that run tasks."""
