"""Runs on their way out of a store, into it, and away: selecting, exporting, importing, deleting, checking."""
