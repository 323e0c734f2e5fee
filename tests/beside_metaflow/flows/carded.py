#: run
from metaflow import FlowSpec, card, current, step
from metaflow.cards import Artifact, Image, Markdown, ProgressBar, Table, VegaChart


class CardFlow(FlowSpec):
    """Cards of several kinds, and more than one on a step."""

    @card(type="blank", id="first")
    @card(id="second")
    @step
    def start(self):
        self.rows = [[1, "one"], [2, "two"]]
        first = current.card["first"]
        first.append(Markdown("# Guess my number"))
        first.append(Table([[Markdown("a"), Artifact({"x": 1})], ["b", 2]], headers=["one", "two"]))
        first.extend([Markdown("more"), Artifact(self.rows, name="rows")])
        bar = ProgressBar(max=10, label="done")
        current.card["second"].append(bar)
        bar.update(5)
        current.card["second"].refresh()
        self.next(self.end)

    @card
    @step
    def end(self):
        current.card.append(Markdown("*fin*"))
        raise_later = hasattr(current, "card")
        print(raise_later)


if __name__ == "__main__":
    CardFlow()
