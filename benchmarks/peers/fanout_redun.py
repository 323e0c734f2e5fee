"""Trivial redun tasks in two processes; redun records each call and its result in its SQLite file."""

import sys

from redun import Scheduler, task
from redun.config import Config

redun_namespace = "bench"


@task(executor="pool")
def double(number):
    return {"doubled": number * 2}


@task()
def fan_out(tasks):
    return [double(number) for number in range(tasks)]


if __name__ == "__main__":
    config = {
        "backend": {"db_uri": "sqlite:///redun.db"},
        "executors.default": {"type": "local"},
        "executors.pool": {"type": "local", "mode": "process", "max_workers": "2"},
    }
    scheduler = Scheduler(config=Config(config))
    scheduler.load()
    count = int(sys.argv[1])
    if len(scheduler.run(fan_out(count))) != count:
        raise SystemExit("results are missing")
