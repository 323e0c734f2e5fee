"""Runs on their way between stores: selecting, exporting and importing."""
