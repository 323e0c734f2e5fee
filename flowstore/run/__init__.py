"""Running flows: from `python flow.py run` to a run that has ended."""
