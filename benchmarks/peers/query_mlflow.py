"""MLflow on SQLite: finding runs among many. Answers each question on a line with the microseconds that it took.

One run is made by MLflow; the others are copies of its rows, as many runs would take minutes to make.
"""

import sqlite3
import sys
import time

from mlflow.tracking import MlflowClient

TAGS = (  # as in `filled`
    ("even", "n % 2 = 0"),
    ("third", "n % 3 = 0"),
    ("early", "n <= half"),
    ("late", "n > half"),
)
BENCH = "tags.`mlflow.user` = 'bench'"
QUESTIONS = {
    "latest_run": (BENCH, 1),
    "latest_successful_run": (f"{BENCH} and attributes.status = 'FINISHED'", 1),
    "first with 2 tags": (f"{BENCH} and tags.even = '1' and tags.third = '1'", 1),
    "last 20": (BENCH, 20),
    "2 tags that never meet": (f"{BENCH} and tags.early = '1' and tags.late = '1'", 20),
}


def fill(client, runs):
    experiment = client.create_experiment("Bench")
    made = client.create_run(experiment, start_time=0, tags={"mlflow.user": "bench"}).info.run_id
    client.set_terminated(made, "FINISHED", end_time=500)
    connection = sqlite3.connect("mlflow.db")
    connection.create_function("copy_id", 1, lambda n: f"{n:032x}")
    columns = [row[1] for row in connection.execute("pragma table_info(runs)")]
    own = {"run_uuid": "copy_id(n)", "start_time": "n * 1000", "end_time": "n * 1000 + 500",
           "status": "iif(n % 10, 'FINISHED', 'FAILED')"}  # fmt: skip
    values = ", ".join(own.get(column, column) for column in columns)
    numbers = f"(with recursive c (n) as (select 1 union all select n + 1 from c where n < {runs}) select n from c)"
    connection.execute(
        f"insert into runs ({', '.join(columns)}) select {values} from runs, {numbers} where run_uuid = ?", (made,)
    )
    connection.execute(
        f"""insert into tags (key, value, run_uuid) select key, value, copy_id(n) from tags, {numbers}
            where run_uuid = ?""",
        (made,),
    )
    for tag, which in TAGS:
        having = which.replace("half", str(runs // 2))
        connection.execute(
            f"insert into tags (key, value, run_uuid) select ?, '1', copy_id(n) from {numbers} where {having}", (tag,)
        )
    connection.execute("delete from tags where run_uuid = ?", (made,))
    connection.execute("delete from runs where run_uuid = ?", (made,))
    connection.commit()
    connection.close()
    return experiment


def main(runs):
    client = MlflowClient("sqlite:///mlflow.db")
    experiment = fill(client, runs)
    for line in sys.stdin:
        condition, limit = QUESTIONS[line.strip()]
        started = time.perf_counter()
        found = client.search_runs([experiment], condition, max_results=limit, order_by=["attributes.start_time DESC"])
        took = time.perf_counter() - started
        if len(found) != (0 if "early" in condition else limit):
            raise SystemExit(f"{line.strip()}: {len(found)} runs")
        print(took * 1e6, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
