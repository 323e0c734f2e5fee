"""The two command lines: `flowstore …` (`main`) and `python flow.py …` (`flow`), both built on `app`."""
