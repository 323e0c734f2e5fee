"""A flow whose results are looked at."""

from __future__ import annotations

SHAPE = {
    "start": "self.next(self.body, foreach='xs')",
    "body": "self.next(self.join)",
    "join": "self.next(self.end)",
    "end": "",
}
MEMBERS = "alpha = Parameter('alpha', default=0.5)\nnote = Parameter('note', default='')"
BODIES = {
    "start": """
        print("hello \\x1b[31mred")
        print("oops", file=sys.stderr)
        import numpy, pandas
        self.xs, self.words, self.text = [1, 2, 3], ["a", "b"], "größe\\n"
        self.rows = [{"a": 1, "b": "x"}, {"a": 2, "c": "=y"}]
        self.array = numpy.arange(6).reshape(2, 3)
        self.frame = pandas.DataFrame({"n": [1, 2], "t": ["x", "y"]})
        self.raw, self.f, self._hidden = b"\\x00\\x1b[2J", lambda: 1, 1
        """,
    "body": "self.y = self.input * self.alpha",
    "join": "self.ys = [i.y for i in inputs]\nself.merge_artifacts(inputs, exclude=['y'])",
    "end": "assert self.alpha < 1, 'too much'",
}
LONG = "a note 日本語 " * 20
TASK = "F/1/start/1"
