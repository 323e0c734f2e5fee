"""A first flow: compare a few classifiers of penguins, and keep the best.

    python -m flowstore.tutorials.penguins run
    python -m flowstore.tutorials.penguins run --folds 10 --seed 7

Each command makes a run of its own, and every run is kept, so that they can be compared later.
"""

import csv
import heapq
import math
import random
from collections import Counter
from collections.abc import Callable
from importlib import resources
from statistics import NormalDist, fmean

from flowstore import FlowSpec, Parameter, card, current, step
from flowstore.cards import ProgressBar, Table, ValueBox

MEASUREMENTS = ["bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g"]

Point = list[float]  # the four measurements of one penguin
Predict = Callable[[Point], str]  # a fitted model: from measurements to species
Fit = Callable[[list[Point], list[str]], Predict]  # a model: what learns from penguins of known species


def baseline(_points: list[Point], species: list[str]) -> Predict:
    """Always the commonest species: what any model has to beat."""
    commonest = Counter(species).most_common(1)[0][0]
    return lambda _point: commonest


def nearest_centroid(points: list[Point], species: list[str]) -> Predict:
    """Return the species whose average penguin is nearest."""
    groups: dict[str, list[Point]] = {}
    for point, name in zip(points, species, strict=True):
        groups.setdefault(name, []).append(point)
    centroids = {name: [fmean(x) for x in zip(*group, strict=True)] for name, group in groups.items()}
    return lambda point: min(centroids, key=lambda name: math.dist(centroids[name], point))


def k_nearest(k: int) -> Fit:
    """Return the commonest species among the `k` nearest penguins."""

    def fit(points: list[Point], species: list[str]) -> Predict:
        def predict(point: Point) -> str:
            known = zip(points, species, strict=True)
            nearest = heapq.nsmallest(k, known, key=lambda penguin: math.dist(penguin[0], point))
            return Counter(name for _, name in nearest).most_common(1)[0][0]

        return predict

    return fit


MODELS: dict[str, Fit] = {
    "baseline": baseline,
    "nearest centroid": nearest_centroid,
    "1 nearest": k_nearest(1),
    "5 nearest": k_nearest(5),
    "25 nearest": k_nearest(25),
}


class PenguinsFlow(FlowSpec):
    """Tell a penguin's species from four measurements, with the best of several models.

    start -> evaluate (one task for each model, side by side) -> compare -> end

    Data: `penguins.csv` beside this file, 344 penguins measured near Palmer Station, Antarctica, 2007-2009.
    Horst AM, Hill AP, Gorman KB (2020), palmerpenguins, https://doi.org/10.5281/zenodo.3960218, CC0.
    """

    folds = Parameter("folds", default=5, help="number of parts in the cross-validation")
    seed = Parameter("seed", default=1, help="seed of the shuffle that deals penguins to the parts")

    @step
    def start(self):
        """Read the table, and fan out: one `evaluate` task for each model.

        Whatever is assigned to `self` is an artifact: stored with the run, and there in later steps.
        """
        with resources.files("flowstore.tutorials").joinpath("penguins.csv").open(encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        complete = [row for row in table if all(row[name] != "NA" for name in MEASUREMENTS)]
        self.points = [[float(row[name]) for name in MEASUREMENTS] for row in complete]
        self.species = [row["species"] for row in complete]
        self.dropped = len(table) - len(complete)
        print(f"{len(complete)} penguins; {self.dropped} dropped, as they were not measured")
        if not 2 <= self.folds <= len(complete):
            raise ValueError(f"--folds is {self.folds}: choose a number from 2 to {len(complete)}")
        self.models = list(MODELS)
        self.next(self.evaluate, foreach="models")

    @step
    def evaluate(self):
        """Cross-validate one model: each penguin is classified by a model fitted without it.

        `self.input` is this task's item of the foreach.
        """
        order = list(range(len(self.points)))
        random.Random(self.seed).shuffle(order)
        names = sorted(set(self.species))
        self.confusion = {actual: dict.fromkeys(names, 0) for actual in names}
        for fold in range(self.folds):
            held_out = order[fold :: self.folds]
            train = sorted(set(order) - set(held_out))
            # The scale, too, is learnt from the training part only: the test part must stay unseen.
            scale = [NormalDist.from_samples(x) for x in zip(*(self.points[i] for i in train), strict=True)]
            scaled = [[s.zscore(x) for s, x in zip(scale, point, strict=True)] for point in self.points]
            predict = MODELS[self.input]([scaled[i] for i in train], [self.species[i] for i in train])
            for i in held_out:
                self.confusion[self.species[i]][predict(scaled[i])] += 1

        right = {name: self.confusion[name][name] for name in names}
        self.score = {
            "model": self.input,
            "accuracy": round(sum(right.values()) / len(order), 4),
            "per_species": {name: round(right[name] / self.species.count(name), 4) for name in names},
        }
        print(f"{self.input}: {self.score['accuracy']:.1%} right")
        self.next(self.compare)

    @card(type="blank", id="report", options={"title": "Which model tells penguins best?"})
    @step
    def compare(self, inputs):
        """Join the tasks of `evaluate`: rank the models, and keep the best one's results.

        `merge_artifacts` takes over what is the same in all inputs. `confusion` is not, but is chosen
        here; `score` is not either, so it is left out. `@card` makes a report of the step.
        """
        ranked = sorted(inputs, key=lambda task: task.score["accuracy"], reverse=True)
        self.leaderboard = [task.score for task in ranked]
        self.metrics = ranked[0].score
        self.confusion = ranked[0].confusion
        self.merge_artifacts(inputs, exclude=["score"])
        self.report(current.card["report"])
        self.next(self.end)

    def report(self, report):
        """Append the ranking as a chart of bars, and the best model's mistakes as a table."""
        best = self.metrics
        report.append(ValueBox("Best model", best["model"], f"{best['accuracy']:.1%} right", theme="success"))
        for score in self.leaderboard:
            report.append(ProgressBar(max=100, label=score["model"], value=round(100 * score["accuracy"], 1), unit="%"))
        names = list(self.confusion)
        rows = [[actual, *(counts[name] for name in names)] for actual, counts in self.confusion.items()]
        report.append(Table(rows, headers=["species", *(f"taken for {name}" for name in names)]))

    @step
    def end(self):
        """Print the ranking, and what the best model took for what."""
        print(f"{current.flow_name}/{current.run_id}: {self.folds}-fold cross-validation, seed {self.seed}")
        for rank, score in enumerate(self.leaderboard, start=1):
            print(f"{rank}. {score['model']:<16} {score['accuracy']:6.1%}")
        print(f"Mistakes of {self.metrics['model']}:")
        for actual, counts in self.confusion.items():
            wrong = [f"{n} taken for {name}" for name, n in counts.items() if n and name != actual]
            print(f"  {actual}: {', '.join(wrong) or 'none'}")


if __name__ == "__main__":
    PenguinsFlow()
