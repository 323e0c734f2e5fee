"""Choose a support vector machine for handwritten digits by cross-validation: a task for each setting and fold."""

from itertools import product
from typing import Any

from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from flowstore import FlowSpec, Parameter, step


class Digits(FlowSpec):
    widths = Parameter("widths", type=int, default=5)
    folds = Parameter("folds", type=int, default=5)

    @step
    def start(self) -> None:
        self.pixels, self.digits = load_digits(return_X_y=True)
        settings = product([1, 3, 10, 30], [0.0001 * 2**n for n in range(self.widths)])
        self.cases = list(product(settings, range(self.folds)))
        self.next(self.fit, foreach="cases")

    @step
    def fit(self) -> None:
        (c, gamma), fold = self.setting, self.fold = self.input
        learn, judge = list(StratifiedKFold(self.folds).split(self.pixels, self.digits))[fold]
        model = SVC(C=c, gamma=gamma).fit(self.pixels[learn], self.digits[learn])
        self.accuracy = model.score(self.pixels[judge], self.digits[judge])
        self.next(self.choose)

    @step
    def choose(self, inputs: Any) -> None:
        self.accuracies: dict[tuple[float, float], float] = {}
        for task in inputs:
            self.accuracies[task.setting] = self.accuracies.get(task.setting, 0) + task.accuracy / self.folds
        self.next(self.end)

    @step
    def end(self) -> None:
        best = max(self.accuracies, key=lambda setting: self.accuracies[setting])
        print(f"best: {best} with {self.accuracies[best]:.4f}")


if __name__ == "__main__":
    Digits()
