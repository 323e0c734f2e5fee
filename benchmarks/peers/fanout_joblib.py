"""Trivial tasks in joblib's two processes, in the batches that it chooses; each result is committed to SQLite."""

import pickle
import sqlite3
import sys

from joblib import Parallel, delayed


def double(number):
    return pickle.dumps({"doubled": number * 2})


def main(tasks):
    connection = sqlite3.connect("results.db", isolation_level=None)
    connection.execute("pragma journal_mode = wal")
    connection.execute("pragma synchronous = normal")
    connection.execute("create table results (id integer primary key, data blob not null)")
    calls = (delayed(double)(number) for number in range(tasks))
    for data in Parallel(n_jobs=2, return_as="generator")(calls):
        connection.execute("insert into results (data) values (?)", (data,))
    connection.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
