"""Three Luigi tasks in a line, in this process; each keeps its result in a file of a new folder."""

import json
import time

import luigi

RUN = f"run-{time.time_ns()}"  # tasks whose files are there already would not run


class Kept(luigi.Task):
    def output(self):
        return luigi.LocalTarget(f"{RUN}/{type(self).__name__}.json")

    def keep(self, value):
        with self.output().open("w") as file:
            json.dump(value, file)

    def given(self):
        with self.input().open() as file:
            return json.load(file)


class Start(Kept):
    def run(self):
        self.keep({"x": 1})


class Work(Kept):
    def requires(self):
        return Start()

    def run(self):
        self.keep({"y": self.given()["x"] + 1})


class End(Kept):
    def requires(self):
        return Work()

    def run(self):
        y = self.given()["y"]
        print(y)
        self.keep({"printed": y})


if __name__ == "__main__":
    if not luigi.build([End()], local_scheduler=True, log_level="WARNING"):
        raise SystemExit("a task failed")
