"""How heavy is that penguin? A flow that builds on the results of another flow, through the Client.

    python -m flowstore.tutorials.features run
    python -m flowstore.tutorials.predictions run
    python -m flowstore.tutorials.predictions --namespace user:anne run --feature bill_mm

The last one looks for features in Anne's namespace; without `--namespace` each user's run finds that user's own. So
the code names no user, and two people can work on both flows without ever mixing up their results.
"""

from statistics import fmean, linear_regression

from flowstore import Flow, FlowSpec, Parameter, current, step


class PredictionFlow(FlowSpec):
    """Predict a penguin's mass from one of its features, by a straight line.

    start -> fit -> end
    """

    feature = Parameter("feature", default="flipper_mm", help="what to predict the mass from")

    @step
    def start(self):
        """Take the newest features that the namespace has, and write down whose they are."""
        features = Flow("FeatureFlow").latest_run
        self.features_from = features.pathspec
        self.table = features.data.features
        print(f"{len(self.table)} penguins from {self.features_from}, as seen in the namespace {current.namespace}")
        if self.feature not in self.table[0]:
            raise ValueError(f"--feature is {self.feature!r}: choose one of {', '.join(self.table[0])}")
        self.next(self.fit)

    @step
    def fit(self):
        """Draw the line through three quarters of the penguins, and weigh the rest with it.

        A prediction is worth something only if it beats one that looks at no feature at all: everybody's mean.
        """
        held_out = self.table[::4]
        known = [row for i, row in enumerate(self.table) if i % 4]
        masses = [row["mass_g"] for row in known]
        slope, intercept = linear_regression([row[self.feature] for row in known], masses)
        mean = fmean(masses)
        self.line = {"slope": round(slope, 3), "intercept": round(intercept, 1)}
        self.metrics = {
            "error_g": round(fmean(abs(slope * row[self.feature] + intercept - row["mass_g"]) for row in held_out), 1),
            "error_of_mean_g": round(fmean(abs(mean - row["mass_g"]) for row in held_out), 1),
        }
        self.next(self.end)

    @step
    def end(self):
        """Print the line, and what it is worth."""
        print(f"mass in grams = {self.line['slope']} * {self.feature} {self.line['intercept']:+}")
        print("off by {error_g} grams on average; the mean would be off by {error_of_mean_g}".format(**self.metrics))


if __name__ == "__main__":
    PredictionFlow()
