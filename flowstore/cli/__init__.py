"""The two command lines: `python flow.py …` and `flowstore …`."""
