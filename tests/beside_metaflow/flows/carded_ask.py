from metaflow import Flow
from metaflow.cards import get_cards

run = Flow("CardFlow").latest_run
cards = get_cards(run["start"].task)
print(len(cards), sorted(card.type for card in cards), sorted(str(card.id) for card in cards))
print(len(get_cards(run["start"].task, type="blank")), len(get_cards(run["start"].task, id="second")))
print(len(get_cards(run["end"].task.pathspec)), type(get_cards(run["end"].task)[0].get()).__name__)
