"""A table of features for other flows to use: the first half of a project of two flows.

    python -m flowstore.tutorials.features run
    python -m flowstore.tutorials.features run --island Biscoe --tag xyz_features

`flowstore/tutorials/predictions.py` is the other half. It finds the table by the flow's name, and never needs to know
who made it, when, or in which file it is.
"""

import csv
from collections import Counter
from importlib import resources

from flowstore import FlowSpec, Parameter, current, step


class FeatureFlow(FlowSpec):
    """Turn the penguins' measurements into a small table: one row a penguin, numbers only, ready to learn from.

    start -> derive -> end

    The table is a list of dicts, so it is stored as JSON: any program can read it, and any colleague may load it.
    """

    island = Parameter("island", default="all", help="whose penguins: Biscoe, Dream, Torgersen or all")

    @step
    def start(self):
        """Read the measurements of the island's penguins."""
        with resources.files("flowstore.tutorials").joinpath("penguins.csv").open(encoding="utf-8") as file:
            table = list(csv.DictReader(file))
        islands = sorted({row["island"] for row in table})
        if self.island not in ["all", *islands]:
            raise ValueError(f"--island is {self.island!r}: choose one of {', '.join(islands)} or all")
        wanted = [row for row in table if self.island in {"all", row["island"]}]
        self.measured = [row for row in wanted if row["body_mass_g"] != "NA"]
        self.next(self.derive)

    @step
    def derive(self):
        """Make a row of features of each penguin: two lengths in their unit, and what no ruler shows."""
        self.features = [
            {
                "flipper_mm": float(row["flipper_length_mm"]),
                "bill_mm": float(row["bill_length_mm"]),
                "bill_shape": round(float(row["bill_length_mm"]) / float(row["bill_depth_mm"]), 3),
                "mass_g": float(row["body_mass_g"]),
            }
            for row in self.measured
        ]
        self.species = dict(Counter(row["species"] for row in self.measured))
        self.next(self.end)

    @step
    def end(self):
        """Say what there is now, and under which name others find it."""
        names = ", ".join(self.features[0])
        print(f"{current.flow_name}/{current.run_id}: {len(self.features)} penguins, each with {names}")


if __name__ == "__main__":
    FeatureFlow()
