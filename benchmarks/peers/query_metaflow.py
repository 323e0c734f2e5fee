"""Metaflow's Client with its local files: finding runs. Answers each question with the microseconds that it took.

The runs are real ones, two at a time, of a flow that does nothing, since only Metaflow can say what it writes.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

FLOW = """
from metaflow import FlowSpec, step

class Bench(FlowSpec):
    @step
    def start(self):
        self.next(self.end)

    @step
    def end(self):
        pass

if __name__ == "__main__":
    Bench()
"""


def fill(runs):
    Path("bench.py").write_text(FLOW)

    def run(n):
        tags = ["even" if n % 2 == 0 else "odd", "third" if n % 3 == 0 else "other",
                "early" if n <= runs // 2 else "late"]  # fmt: skip
        command = [sys.executable, "bench.py", "--quiet", "run", *(word for tag in tags for word in ("--tag", tag))]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(1, runs + 1)))


def main(runs):
    os.environ["METAFLOW_DATASTORE_SYSROOT_LOCAL"] = str(Path.cwd())
    fill(runs)
    from metaflow import Flow, namespace

    namespace("user:bench")
    questions = {
        "latest_run": lambda: [Flow("Bench").latest_run],
        "latest_successful_run": lambda: [Flow("Bench").latest_successful_run],
        "first with 2 tags": lambda: list(islice(Flow("Bench").runs("even", "third"), 1)),
        "last 20": lambda: list(islice(Flow("Bench").runs(), 20)),
        "2 tags that never meet": lambda: list(Flow("Bench").runs("early", "late")),
    }
    for line in sys.stdin:
        started = time.perf_counter()
        questions[line.strip()]()
        print((time.perf_counter() - started) * 1e6, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
