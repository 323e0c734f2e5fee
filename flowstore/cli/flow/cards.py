"""`card view | get | list | server`: the cards of a flow's tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from flowstore import later
from flowstore.cards.stored import Card, get_cards
from flowstore.cli import output
from flowstore.cli.app import STORE, Group, command, gather
from flowstore.cli.flow.flow_file import NAMESPACE, FlowFile
from flowstore.client import Flow, Flows, Run, Step, Task
from flowstore.client.rows import tasks_of
from flowstore.errors import NotFound
from flowstore.text import did_you_mean, one_line, size


@later.frozen
class _Choice:
    """A choice of cards: by id, type or the beginning of the hash, with or without those of tasks that were reused."""

    id: str | None
    type: str | None
    hash: str | None
    follow_resumed: bool

    def of(self, task: Task) -> list[Card]:
        """Return the chosen cards of a task."""
        cards = get_cards(task, id=self.id, type=self.type, follow_resumed=self.follow_resumed)
        return [card for card in cards if card.hash.startswith((self.hash or "").lower())]

    def __str__(self) -> str:
        wanted = {"id": self.id, "type": self.type, "hash": self.hash}
        return ", ".join(f"{name} {value!r}" for name, value in wanted.items() if value is not None)


def _with_choice(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose cards, as one `choice`."""
    options = (
        click.option("--id", metavar="ID", help="Only the card with this id."),
        click.option("--type", metavar="TYPE", help="Only cards of this type."),
        click.option("--hash", metavar="HASH", help="Only cards whose hash begins with this."),
        click.option(
            "--follow-resumed/--no-follow-resumed",
            default=True,
            show_default=True,
            help="Whether a task that was taken over from another run has the cards of the original task.",
        ),
    )
    decorated = gather(choice=_Choice)(function)
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def _tasks(this: FlowFile, pathspec: str) -> list[Task]:
    """Return the tasks of STEP, RUN/STEP or RUN/STEP/TASK; STEP alone is that of the latest run."""
    address = f"latest/{pathspec}" if pathspec in this.graph else pathspec
    if address.isidentifier() and address != "latest":
        raise click.UsageError(
            f"{this.name} has no step {pathspec!r}.{did_you_mean(pathspec, [node.name for node in this.graph])}"
        )
    return tasks_of(this.find(address, Step, Task, everywhere=address == pathspec))


def _one(this: FlowFile, pathspec: str, choice: _Choice) -> Card:
    """Return the card that is meant; raise NotFound where there is none, or more than one."""
    cards = [card for task in _tasks(this, pathspec) for card in choice.of(task)]
    wanted = f" with {choice}" if str(choice) else ""
    if not cards:
        raise NotFound(f"{pathspec} has no card{wanted}.")
    if len(cards) > 1:
        lines = "".join(f"\n  {_line(card)}" for card in cards)
        raise NotFound(f"{pathspec} has {len(cards)} cards{wanted}. Choose one with --id, --type or --hash:{lines}")
    return cards[0]


def _line(card: Card) -> str:
    name = "" if card.id is None else f" id {card.id}"
    return one_line(f"{card.pathspec}: {card.type}{name} hash {card.hash[:10]}")


@command(STORE, NAMESPACE)
@click.argument("pathspec", metavar="[RUN/]STEP[/TASK]")
@_with_choice
def view(this: FlowFile, pathspec: str, choice: _Choice) -> None:
    """Show a card in the browser.

    RUN is 5 or latest, and defaults to latest; TASK is 17 or latest.

    Example:
        python flow.py card view 5/train --id report
    """
    card = _one(this, pathspec, choice)
    click.echo(f"Showing {card.path}", err=True)
    card.view()


@command(STORE, NAMESPACE)
@click.argument("pathspec", metavar="[RUN/]STEP[/TASK]")
@click.argument("path", required=False, metavar="[FILE]", type=click.Path(dir_okay=False, path_type=Path))
@_with_choice
def get(this: FlowFile, pathspec: str, path: Path | None, choice: _Choice) -> None:
    """Print the HTML of a card, or write it to FILE.

    RUN is 5 or latest, and defaults to latest; TASK is 17 or latest.

    Example:
        python flow.py card get 5/train report.html
    """
    from flowstore.sqlite import outputs

    if path is not None:
        outputs.check(path)
    html = _one(this, pathspec, choice).get()
    if path is None:
        click.echo(html)
        return
    with outputs.replaced(path) as temporary:
        temporary.write_text(html, "utf-8")
    click.echo(f"Wrote {size(len(html.encode()))} to {path}.", err=True)


@command(STORE, NAMESPACE, name="list")
@click.argument("pathspec", required=False, metavar="[[RUN/]STEP[/TASK]]")
@click.option("--as-json", is_flag=True, help="Print JSON.")
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path), metavar="F", help="Write JSON to this file.")
@_with_choice
def list_(this: FlowFile, pathspec: str | None, as_json: bool, file: Path | None, choice: _Choice) -> None:
    """List the cards of a run, a step or a task.

    RUN is 5 or latest, and defaults to latest; TASK is 17 or latest.

    Example:
        python flow.py card list 5/train --as-json
    """
    rows = [_row(card) for task in _listed(this, pathspec) for card in choice.of(task)]
    if file is not None:
        import json

        from flowstore.sqlite import outputs

        outputs.check(file)
        with outputs.replaced(file) as temporary:
            temporary.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")
    if as_json:
        output.echo(rows, "json")
    elif file is None:
        if rows:
            output.echo_table([{**row, "hash": row["hash"][:10]} for row in rows])
        else:
            click.echo("There are no cards.", err=True)


def _listed(this: FlowFile, pathspec: str | None) -> Iterable[Task]:
    if pathspec is None:
        if this.name not in Flows():
            raise NotFound(f"There is no run of {this.name} in this namespace.")
        run = Flow(this.name).latest_run
        return [] if run is None else tasks_of(run)
    if "/" not in pathspec and pathspec not in this.graph:
        return tasks_of(this.find(pathspec, Run, everywhere=True))
    return _tasks(this, pathspec)


def _row(card: Card) -> dict[str, Any]:
    return {
        "pathspec": card.pathspec,
        "number": card.number,
        "type": card.type,
        "id": card.id,
        "hash": card.hash,
        "updated_at": f"{card.updated_at:%Y-%m-%d %H:%M:%S}",
    }


@later.frozen
class _Shown:
    """The page that the server shows: `--run-id`, `--max-cards` and `--poll-interval`."""

    run_id: str
    max_cards: int
    poll_interval: int

    def page(self, flow: str) -> str:
        """Return the address of the page."""
        from urllib.parse import quote

        run_id = self.run_id.removeprefix(f"{flow}/")
        return f"/cards/{flow}/{quote(run_id, safe='')}?most={self.max_cards}&every={self.poll_interval}"


@command(STORE)
@click.option("--run-id", default="latest", show_default=True, metavar="RUN", help="The run: 5 or latest.")
@click.option("--port", type=click.IntRange(0, 65535), default=8324, show_default=True, metavar="N", help="The port.")
@click.option(
    "--poll-interval",
    type=click.IntRange(1, 3600),
    default=5,
    show_default=True,
    metavar="SECONDS",
    help="How often the page asks for what is new.",
)
@click.option(
    "--max-cards",
    type=click.IntRange(1, 1000),
    default=30,
    show_default=True,
    metavar="N",
    help="How many cards are shown.",
)
@click.option("--no-browser", is_flag=True, help="Print the address without opening a browser.")
@gather(shown=_Shown)
def server(this: FlowFile, shown: _Shown, port: int, no_browser: bool) -> int:
    """Serve the cards of a run as a web page.

    The page follows the run; Ctrl-C ends the server. RUN is 5, or latest to follow each new run.

    Example:
        python flow.py card server --run-id 5
    """
    from flowstore.store import opening
    from flowstore.web.server import Options, serve

    path = opening.active_store().path
    if not shown.run_id.startswith("latest"):  # which may still begin
        this.find(shown.run_id, Run, everywhere=True)
    options = Options(port=port, no_browser=no_browser, read_only=True, page=shown.page(this.name))
    return serve(path, options, click.echo)


card = Group(
    "card",
    [view, get, list_, server],
    help="Show and save the cards of tasks.",
    example="python flow.py card view 5/train",
)
