"""Keeps a store small and sound: delete, vacuum, check, repair."""
