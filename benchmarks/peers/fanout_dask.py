"""Trivial tasks on a local Dask cluster of two processes; each result is committed to SQLite as it comes."""

import pickle
import sqlite3
import sys

from distributed import Client, LocalCluster, as_completed


def double(number):
    return pickle.dumps({"doubled": number * 2})


def main(tasks):
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        connection = sqlite3.connect("results.db", isolation_level=None)
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = normal")
        connection.execute("create table results (id integer primary key, data blob not null)")
        futures = client.map(double, range(tasks), pure=False)
        for _, data in as_completed(futures, with_results=True):
            connection.execute("insert into results (data) values (?)", (data,))
        connection.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
