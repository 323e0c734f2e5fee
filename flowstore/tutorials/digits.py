"""Read handwritten digits: arrays, a data frame and a fitted model as artifacts.

    pip install "flowstore[test]"
    python -m flowstore.tutorials.digits run
    python -m flowstore.tutorials.digits run --gammas 0.0005,0.001,0.002

Data: `load_digits` of scikit-learn, 1797 images of 8 x 8 pixels; they come with the package. Alpaydin E,
Kaynak C (1998), https://archive.ics.uci.edu/ml/datasets/Optical+Recognition+of+Handwritten+Digits.
"""

from flowstore import FlowSpec, Parameter, current, step

try:
    import pandas as pd
    from sklearn.datasets import load_digits
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
    from sklearn.model_selection import cross_val_score, train_test_split
    from sklearn.svm import SVC
except ModuleNotFoundError as missing:
    raise SystemExit(
        f'DigitsFlow needs {missing.name}, which is not installed. Run: pip install "flowstore[test]"'
    ) from None


class DigitsFlow(FlowSpec):
    """Choose a support vector machine by cross-validation, then judge it by images it has never seen.

    start -> fit (one task for each gamma, side by side) -> choose -> end
    """

    gammas = Parameter("gammas", default="0.0001,0.001,0.01", help="kernel widths to try, comma-separated")
    test_share = Parameter("test_share", default=0.25, help="share of the images kept for the final test")
    seed = Parameter("seed", default=1, help="seed of the split into training and test images")

    @step
    def start(self):
        """Load the images, set the test images aside, and fan out over the gammas."""
        pixels, digits = load_digits(return_X_y=True)
        self.train_pixels, self.test_pixels, self.train_digits, self.test_digits = train_test_split(
            pixels, digits, test_size=self.test_share, random_state=self.seed, stratify=digits
        )
        print(f"{len(self.train_digits)} images to learn from, {len(self.test_digits)} for the test")
        self.candidates = [float(gamma) for gamma in self.gammas.split(",")]
        self.next(self.fit, foreach="candidates")

    @step
    def fit(self):
        """Fit one model, and estimate its accuracy from the training images alone."""
        self.gamma = self.input
        unfitted = SVC(gamma=self.gamma)
        self.accuracy = float(cross_val_score(unfitted, self.train_pixels, self.train_digits, cv=3).mean())
        self.model = unfitted.fit(self.train_pixels, self.train_digits)
        print(f"gamma {self.gamma:g}: {self.accuracy:.1%} right in cross-validation")
        self.next(self.choose)

    @step
    def choose(self, inputs):
        """Join: keep the best model, and test it.

        `gamma`, `model` and `accuracy` differ between the inputs, so they are chosen before
        `merge_artifacts` takes over all that is the same.
        """
        ranked = sorted(inputs, key=lambda task: task.accuracy, reverse=True)
        best = ranked[0]
        self.gamma, self.model, self.accuracy = best.gamma, best.model, best.accuracy
        self.leaderboard = pd.DataFrame([{"gamma": task.gamma, "accuracy": task.accuracy} for task in ranked])
        self.merge_artifacts(inputs)

        predicted = self.model.predict(self.test_pixels)
        labels = self.model.classes_
        self.confusion = confusion_matrix(self.test_digits, predicted, labels=labels)
        precision, recall, _, support = precision_recall_fscore_support(
            self.test_digits, predicted, labels=labels, zero_division=0
        )
        self.report = pd.DataFrame({"digit": labels, "precision": precision, "recall": recall, "support": support})
        accuracy = float((predicted == self.test_digits).mean())
        self.metrics = {"gamma": self.gamma, "accuracy": round(accuracy, 4)}
        self.next(self.end)

    @step
    def end(self):
        """Print the ranking and the test's result, digit by digit."""
        print(f"{current.flow_name}/{current.run_id}: in cross-validation")
        print(self.leaderboard.round(4).to_string(index=False))
        print(f"Test of gamma {self.gamma:g}: {self.metrics['accuracy']:.1%} right")
        print(self.report.round(3).to_string(index=False))


if __name__ == "__main__":
    DigitsFlow()
