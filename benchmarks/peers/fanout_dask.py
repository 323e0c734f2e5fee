"""Trivial tasks on a local Dask cluster of two processes; each result is committed to SQLite as it comes.

With `process`, each task is a process of its own: an interpreter, since a worker has threads and so can't fork.
"""

import pickle
import sqlite3
import subprocess
import sys

from distributed import Client, LocalCluster, as_completed


def double(number):
    return pickle.dumps({"doubled": number * 2})


PROGRAM = "import pickle, sys; sys.stdout.buffer.write(pickle.dumps({'doubled': int(sys.argv[1]) * 2}))"


def double_in_process(number):
    command = [sys.executable, "-I", "-c", PROGRAM, str(number)]
    return subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout


def main(tasks, function):
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        connection = sqlite3.connect("results.db", isolation_level=None)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute("create table results (id integer primary key, data blob not null)")
        futures = client.map(function, range(tasks), pure=False)
        for _, data in as_completed(futures, with_results=True):
            connection.execute("insert into results (data) values (?)", (data,))
        connection.close()


if __name__ == "__main__":
    main(int(sys.argv[-1]), double_in_process if "process" in sys.argv else double)
