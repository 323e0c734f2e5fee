"""Tab completes what is in the store, in every shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import click
import pytest

from flowstore import FlowSpec
from flowstore.cli import flow as flow_commands
from flowstore.cli import main
from flowstore.store import opening, records

WORDS = ["F/latest", "F/latest-successful"]


def complete(line, shell="bash", folder=None):
    """What Tab offers at the end of a line."""
    words = line.split(" ")
    environment = {
        "_FLOWSTORE_COMPLETE": f"{shell}_complete",
        "COMP_LINE": line,
        "COMP_WORDBREAKS": " \t\n\"'><=;|&(:",
        "COMP_WORDS": line,
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1),
    }
    ran = subprocess.run(
        [sys.executable, "-c", "from flowstore.cli.main import main; main()"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error", **environment},
    )
    assert ran.stderr == ""
    if shell == "zsh":
        return ran.stdout.split("\n")[1::3]
    return [each.partition(",")[2].partition("\t")[0] for each in ran.stdout.splitlines() if each]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("flowstore show ", ["F", "F/3", "F/2", "F/1"]),
        ("flowstore diff F/1 F/", [*WORDS, "F/3", "F/2", "F/1"]),
        ("flowstore show F/1/", ["F/1/end", "F/1/join", "F/1/body", "F/1/start"]),
        ("flowstore logs F/1/st", ["F/1/start"]),
        ("flowstore get F/1/start/1/x", ["F/1/start/1/xs"]),
        ("flowstore runs --tag 日", ["日本語"]),
        ("flowstore runs --namespace user:w", ["will"]),  # bash has cut off "user:"
        ("flowstore runs --namespace=user:w", ["will"]),
        ("flowstore --namespace user:will diff ", ["F/2"]),
        ("flowstore show F/l", WORDS),
        ("flowstore runs --status su", ["successful"]),
        ("flowstore delete F/", [*WORDS, "F/3", "F/2", "F/1"]),
        ("flowstore delete --tag 日", ["日本語"]),
        ("flowstore export out.db --flow ", ["F"]),
        ("sudo /usr/bin/flowstore name", ["namespaces"]),
        ("flowstore show G/", []),
        ("flowstore show F/9/", []),
    ],
)
def test_tab_completes_what_is_in_the_store(story, line, offered):
    """Flows, run ids, steps, tasks, artifacts, tags and namespaces."""
    assert complete(line, folder=story.folder) == offered


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_tab_completes_in_other_shells(story, shell):
    """There a colon does not end a word."""
    assert complete("flowstore runs --namespace user:w", shell, story.folder) == ["user:will"]
    assert complete("flowstore diff F/", shell, story.folder) == [*WORDS, "F/3", "F/2", "F/1"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_tab_completes_in_a_real_bash(story, tmp_path):
    """The script that the README's line evaluates answers bash as bash asks."""
    program = tmp_path / "flowstore"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "from flowstore.cli.main import main; main()" "$@"\n')
    program.chmod(0o755)
    script = (
        'eval "$(_FLOWSTORE_COMPLETE=bash_source flowstore)"\n'
        'COMP_LINE="flowstore runs --namespace user:wi # later"; COMP_POINT=34\n'
        '_flowstore_completion flowstore; echo "${COMPREPLY[@]}"; complete -p flowstore'
    )
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run(
        ["bash", "-c", script], cwd=story.folder, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert ran.stdout.splitlines()[0] == "will"
    assert "-F _flowstore_completion flowstore" in ran.stdout


def test_tab_offers_only_plain_words_and_only_some(tmp_path):
    """Nothing that a shell or a terminal would take for more than a word, and some dozens at most."""
    store = opening.ensure_store(tmp_path / "flowstore.db")
    hostile = ["$(reboot)", "a b", "`x`", "x\x1b[2J", "x\ny", "-rf", "x;y", "x\u202ey", "it's", "*"]
    with store.write() as connection:
        for n in range(120):
            run = records.NewRun("F", "tester", {}, (), None, ["user:tester"], [f"tag{n:03}", *hostile])
            records.create_run(connection, run)
    store.close()
    offered = complete("flowstore runs --tag ", folder=tmp_path)
    assert len(offered) == 50
    assert not set(offered) & set(hostile)
    assert len(complete("flowstore diff ", folder=tmp_path)) == 50
    for beginning in "$x":
        assert complete(f"flowstore runs --tag {beginning}", folder=tmp_path) == []


def test_tab_is_quiet_where_there_is_nothing_to_offer(tmp_path):
    """No store, or a damaged one: no words, no message, no file."""
    assert complete("flowstore show ", folder=tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "flowstore.db").write_bytes(b"SQLite format 3\x00" + b"x" * 5000)
    assert complete("flowstore show ", folder=tmp_path) == []
    assert complete("flowstore runs --tag x", folder=tmp_path) == []


@pytest.mark.parametrize("group", [main.flowstore, flow_commands.commands_of(FlowSpec)], ids=["flowstore", "flow.py"])
def test_the_list_of_commands_says_what_each_command_says_of_itself(group):
    context = click.Context(group)
    listed = {name: one.summary for name, one in group._listed.items()}
    assert listed == {name: group.get_command(context, name).get_short_help_str(999) for name in listed}
