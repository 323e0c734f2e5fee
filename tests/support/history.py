"""A flow with retries, a foreach and a failure, that two people run."""

from __future__ import annotations

SHAPE = {
    "start": "self.next(self.body, foreach='xs')",
    "body": "self.next(self.join)",
    "join": "self.next(self.end)",
    "end": "",
}
MEMBERS = """
LEVEL = 3
alpha = Parameter("alpha", default=0.5)
fail = Parameter("fail", default=False)
"""
BODIES = {
    "start": """
        print("hello")
        print("two", "words")
        print("oops", file=sys.stderr)
        self.xs, self.x, self._hidden, self.f = [10, 20, 30], 1, 2, lambda: 42
        """,
    "body": """
        @retry(times=1, minutes_between_retries=0)
        print("attempt", current.retry_count)
        self.y = self.input
        self.seen = current.retry_count
        if self.index == 1 and current.retry_count == 0:
            raise ValueError("the first time")
        """,
    "join": "self.ys = [i.y for i in inputs]\nself.merge_artifacts(inputs, exclude=['y', 'seen'])",
    "end": "self.x = 2",
}
