"""Draw the picture of the README: a terminal session, with what the commands really print.

    python flowstore/docs/images/draw_session.py

writes `session.svg` beside this file. Run it again when the output of a command has changed; a test says so.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.sax.saxutils import escape

PICTURE = Path(__file__).with_name("session.svg")
CHARACTER, LINE, MARGIN, BAR = 7.2, 18, 18, 30  # pixels: of a monospaced font of 12 pixels, and of the frame

DEMO = "flowstore demo"
LS = "ls"
SQL = (
    'flowstore sql "select item as model, number as accuracy from task_summary\n'
    "    join metrics using (task_id) where name = 'score.accuracy' order by number desc limit 3\""
)
PYTHON = ("from flowstore import Flow", 'Flow("PenguinsFlow").latest_run.data.metrics')
PREFIX = re.compile(r"(\S+ \S+ \[)(\S+)( \(pid \d+\)\])(.*)")  # of a line that a task printed

STYLE = """
  .frame { fill: #fbfbfa; stroke: #d5d5d2 } .bar { fill: #efefec } .dot { fill: #c9c9c5 }
  text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace; fill: #2b2b2b;
         white-space: pre }
  .title { fill: #6b6b68 } .prompt { fill: #2f7d4f } .command { font-weight: 600 } .dim { fill: #8a8a86 }
  .task { fill: #2563a8 }
  @media (prefers-color-scheme: dark) {
    .frame { fill: #16181c; stroke: #33363c } .bar { fill: #202329 } .dot { fill: #4a4e57 } text { fill: #d9dbe0 }
    .title { fill: #9a9ea8 } .prompt { fill: #7fd3a0 } .dim { fill: #7d828d } .task { fill: #82b4f0 }
  }
"""

Part = tuple[str, str]  # the class of a piece of a line, and its text
Line = list[Part]


def session() -> list[Line]:
    """Return the lines of the session, as the commands print them now, in an empty folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        printed = [line for line in _output(DEMO, folder) if "penguins;" in line or "% right" in line]
        lines = [*_command(DEMO), *map(_task_line, printed), [("dim", "⋯")]]
        lines += [*_command(LS), *_plain(_output(LS, folder))]
        lines += [*_command(SQL), *_plain(_output(SQL.replace("\n   ", ""), folder))]
        lines += [*_command("python"), *([("prompt", ">>> "), ("command", line)] for line in PYTHON)]
        program = f"{PYTHON[0]}; print({PYTHON[1]})"
        lines += _plain(_output(f"python -c '{program}'", folder))
    return lines


def _output(command: str, folder: Path) -> list[str]:
    """Run a command with the environment of this Python; return the lines that it prints."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "FLOWSTORE_STORE": "flowstore.db", "FLOWSTORE_USER": "anne"}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=True)  # noqa: S602
    return done.stdout.splitlines()


def _command(text: str) -> list[Line]:
    first, *more = text.splitlines()
    return [[("prompt", "$ "), ("command", first)], *([("command", line)] for line in more)]


def _plain(lines: list[str]) -> list[Line]:
    return [[("", line)] for line in lines]


def _task_line(line: str) -> Line:
    match = PREFIX.fullmatch(line)
    assert match is not None, line
    return [("dim", match[1]), ("task", match[2]), ("dim", match[3]), ("", match[4])]


def draw(lines: list[Line]) -> str:
    """Return the lines as a picture of a terminal, for light and dark pages."""
    columns = max(sum(len(text) for _, text in line) for line in lines)
    width, height = round(2 * MARGIN + CHARACTER * columns), BAR + 2 * MARGIN + LINE * (len(lines) - 1)
    dots = "".join(f'<circle class="dot" cx="{18 + 16 * n}" cy="15" r="5"/>' for n in range(3))
    rows = "\n".join(_row(line, BAR + MARGIN + 4 + LINE * n) for n, line in enumerate(lines))
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<style>{STYLE}</style>
<rect class="frame" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>
<path class="bar" d="M1 {BAR} V8 a7 7 0 0 1 7 -7 H{width - 8} a7 7 0 0 1 7 7 V{BAR} z"/>{dots}
<text class="title" x="{width / 2}" y="19" text-anchor="middle">one run, one file</text>
{rows}
</svg>
"""


def _row(line: Line, y: int) -> str:
    """Return a line of text; its length is fixed, so that every font keeps the columns."""
    length = sum(len(text) for _, text in line)
    parts = "".join(
        f'<tspan class="{kind}">{escape(text)}</tspan>' if kind else escape(text) for kind, text in line if text
    )
    return f'<text x="{MARGIN}" y="{y}" textLength="{CHARACTER * length:.1f}" xml:space="preserve">{parts}</text>'


if __name__ == "__main__":
    PICTURE.write_text(draw(session()), "utf-8")
    print(f"{PICTURE} is written.")
