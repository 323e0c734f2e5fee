"""Both command lines are trees of commands that explain themselves and refuse what they have no use for."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest

import flowstore
from flowstore.cli import app, main
from flowstore.cli.flow import commands_of
from support.cli import command
from support.flows import FOREACH, flow_source

SCRIPT = Path(flowstore.__file__).parent / "docs" / "write_commands.py"
REFERENCE = runpy.run_path(str(SCRIPT))
TREES = [(main.flowstore, "flowstore"), (commands_of(REFERENCE["HelloFlow"]), "python flow.py")]
ALL = {ctx.command_path: (known, ctx) for tree in TREES for known, ctx in REFERENCE["commands"](*tree)}
OWN = {path: known for path, (known, _) in ALL.items() if isinstance(known, app.Command)}
MEANINGLESS = [
    (path, setting, option)
    for path, known in OWN.items()
    for setting in ALL[path][1].find_root().command.settings
    for option in setting.options
    if setting.name not in {taken.name for taken in known.settings}
]


@pytest.mark.parametrize("path", ALL)
def test_each_command_explains_itself(path):
    """The help begins with a short sentence in the imperative and ends with an example of the command."""
    known, ctx = ALL[path]
    summary = known.help.splitlines()[0]
    assert re.fullmatch(r"[A-Z].*\.", summary)
    assert not summary.split()[0].endswith("s"), "the summary is an order: List, Show, Run"
    assert known.example.startswith(ctx.find_root().info_name)
    assert ctx.info_name in known.example or "deploy" in known.example  # which takes the place of some
    *_, head, example = known.get_help(ctx).rstrip().splitlines()
    assert head == "Example:"
    assert example.strip() == known.example


@pytest.mark.parametrize("path", [path for path, (known, _) in ALL.items() if isinstance(known, click.Group)])
def test_summaries_fit_a_terminal(path):
    """In a list of commands on 80 columns no summary is cut."""
    known, ctx = ALL[path]
    formatter = click.HelpFormatter(width=78)
    known.format_commands(ctx, formatter)
    assert "..." not in formatter.getvalue()


@pytest.mark.parametrize("path", ALL)
def test_each_example_can_be_parsed(path):
    """An example names a command that is there, with options that it has."""
    known, ctx = ALL[path]
    program = ctx.find_root().info_name
    tree = ctx.find_root().command
    words = shlex.split(known.example.removeprefix(program))
    ctx = tree.make_context(program, words)
    while isinstance(ctx.command, click.Group):
        words = [*ctx._protected_args, *ctx.args]
        name, inner, rest = ctx.command.resolve_command(ctx, words)
        ctx = inner.make_context(name, rest, parent=ctx)


@pytest.mark.parametrize("path", OWN)
def test_the_form_of_an_address_is_named(path):
    """Where a command takes a PATHSPEC or a RUN its help says what that looks like."""
    arguments = [one for one in OWN[path].params if isinstance(one, click.Argument)]
    taken = {word for one in arguments for word in re.findall("PATHSPEC|RUN", (one.metavar or one.name).upper())}
    taken -= {"RUN"} if "PATHSPEC" in taken else set()
    for word in taken:
        assert f"{word} is " in OWN[path].help


@pytest.mark.parametrize(
    ("path", "setting", "option"), MEANINGLESS, ids=[f"{path} {option.opts[0]}" for path, _, option in MEANINGLESS]
)
def test_what_means_nothing_is_not_offered(path, setting, option):
    """An option that a command has no use for is refused after it, and before it unless it harms nowhere."""
    known, ctx = ALL[path]
    assert option not in known.params
    root = ctx.find_root()
    words = [option.opts[0]] if option.is_flag else [option.opts[0], "x"]
    inner = path.removeprefix(root.info_name).split()
    if not setting.everywhere:
        outer = root.command.make_context(root.info_name, [*words, *inner])
        with click.Context(known, info_name=inner[-1], parent=outer) as called, pytest.raises(click.UsageError) as why:
            known.invoke(called)
        assert f"has no use for {words[0]}" in str(why.value)


def test_settings_stand_before_or_after(story):
    """--store, --namespace, --json and --csv work on both sides of the command."""
    for words in (["--store", story.db, "--json", "--namespace", "user:will"], ["--store", story.db, "--csv"]):
        assert command(*words, "runs").stdout == command("runs", *words).stdout
    assert command("--json", "runs", "--csv", folder=story.folder).stdout.startswith("run,")  # the last one counts


WRONG = [
    (["flowstore", "shwo", "F/1"], 2, "There is no command 'shwo'. Did you mean 'show'?"),
    (["flowstore", "zzz"], 2, "There is no command 'zzz'.\n"),
    (["flowstore", "run"], 2, "There is no command 'run'. A flow's own file has it: python flow.py run\n"),
    (["flowstore", "runs", "--limt", "3"], 2, "There is no option --limt. Did you mean '--limit'?"),
    (["flowstore", "runs", "--alpha", "3"], 2, "There is no option --alpha.\n"),
    (["flowstore", "schema", "--namespace", "x"], 2, "There is no option --namespace."),
    (["flowstore", "--namespace", "x", "schema"], 2, "flowstore schema has no use for --namespace."),
    (["flowstore", "--csv", "scheduler"], 2, "flowstore scheduler has no use for --csv."),
    (["flow", "rnu"], 2, "There is no command 'rnu'. Did you mean 'run'?"),
    (["flow", "tag", "lst"], 2, "There is no command 'lst'. Did you mean 'list'?"),
    (["flow", "run", "--alhpa", "3"], 2, "There is no option --alhpa. Did you mean '--alpha'?"),
    (["flow", "resume", "boddy"], 2, "There is no step 'boddy'. Did you mean 'body'? The steps are: start, body"),
    (["flow", "resume", "--alpha", "3"], 2, "There is no option --alpha. A resumed run keeps"),
    (["flow", "--durable", "show"], 2, "python flow.py show has no use for --durable."),
]


def test_wrong_names_are_answered_by_the_nearest(flow):
    """A wrong command, step or option is wrong usage, and the message names the nearest right one."""
    script = flow(flow_source(FOREACH, members="alpha = Parameter('alpha', default=0.5)", start="self.xs = [1]"))
    script("run")
    for (program, *words), code, message in WRONG:
        if program == "flow":
            stderr = script(*words, expect=code).stderr
        else:
            stderr = command(*words, expect=code, folder=script.folder).stderr
        assert message in stderr, words


@pytest.mark.parametrize(
    ("words", "unused"),
    [
        ("runs", "inspect|transfer|maintenance|production|demo|completion|formats"),
        ("tags", "inspect|transfer|maintenance|production|demo|completion|formats|logs"),
        ("vacuum", "inspect|runs|transfer|production|demo|completion|formats|logs"),
    ],
)
def test_a_command_imports_its_own_module_only(story, words, unused):
    """Modules of commands are imported when their command is called."""
    code = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))\n"
    code += f"from flowstore.cli.main import main; sys.argv = ['flowstore', {words!r}]; main()"
    ran = subprocess.run([sys.executable, "-c", code], cwd=story.folder, capture_output=True, text=True, check=True)
    assert re.findall(rf"flowstore\.cli\.(?:{unused})\b", ran.stderr) == []


@pytest.mark.skipif(version("click") < "8.5", reason="older versions of click write usage in another way")
def test_the_reference_is_up_to_date():
    """docs/commands.md is what the commands say of themselves."""
    assert SCRIPT.with_name("commands.md").read_text("utf-8") == REFERENCE["page"](), f"run: python {SCRIPT}"
