"""Run the flows of this folder under Metaflow and under flowstore, unchanged, and compare all that is left of them.

    python tests/beside_metaflow --metaflow PYTHON [NAME…]

The first is the Python of an environment in which Metaflow is installed. Each flow begins with lines `#: COMMAND`:
command lines to call it with. Compared are exit codes, what tasks print, and what the Client answers (`look.py`): runs,
their statuses, tags and steps, tasks, their artifacts, attempts, logs, parents and origins. A program called as the
flow, with `_ask` at its end, asks more; what it prints is compared. A line `#! TEXT: REASON` names a difference that
is meant.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).parent
FLOWS = sorted(file for file in (FOLDER / "flows").glob("*.py") if not file.stem.endswith("_ask"))
SECONDS = 300


def commands_of(source):
    """The command lines that a flow is to be called with."""
    return re.findall(r"^#: (.*)$", source, re.MULTILINE)


def meant_in(source):
    """The texts of the differences that are meant."""
    return [line.partition(": ")[0] for line in re.findall(r"^#! (.*)$", source, re.MULTILINE)]


def results_of(file, python):
    """Call a flow with all its commands in a folder of its own; returns what came of that."""
    source = file.read_text("utf-8")
    name = re.search(r"^class (\w+)\(.*\):(?:.*\n)*?if __name__", source, re.MULTILINE)[1]
    with tempfile.TemporaryDirectory() as folder:
        for other in file.parent.glob(f"{file.stem}*"):
            if other.is_dir():
                shutil.copytree(other, folder, dirs_exist_ok=True)
            else:
                shutil.copy(other, folder)
        environment = {key: text for key, text in os.environ.items() if not key.startswith(("FLOWSTORE_", "METAFLOW_"))}
        environment |= {"USER": "tester", "USERNAME": "tester", "HOME": folder, "FLOWSTORE_HOME": f"{folder}/.home"}

        environment["PATH"] = f"{Path(python[0]).parent}{os.pathsep}{environment['PATH']}"  # gangs start `python`

        def call(*words, **env):
            return subprocess.run(
                [*python, *words], cwd=folder, env=environment | env, capture_output=True, text=True, timeout=SECONDS
            )

        results = {}
        for number, command in enumerate(commands_of(source), 1):
            variables, words = command_line(command)
            ran = call(file.name, *words, **variables)
            results[f"{number}. {command}"] = ran.returncode
            results[f"output of {number}"] = ran.stdout + ran.stderr
        looked = call(str(FOLDER / "look.py"), name)
        results["client"] = json.loads(looked.stdout) if looked.returncode == 0 else looked.stderr
        ask = file.with_name(f"{file.stem}_ask.py")
        if ask.exists():
            asked = call(ask.name)
            results["ask"] = asked.stdout.splitlines() + asked.stderr.splitlines()[-1:]
        return results


def command_line(text):
    """The variables and the words of a command line such as `A=1 run --alpha 2`."""
    words = shlex.split(text)
    variables = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    return variables, [word for word in words if not re.match(r"[A-Z_]+=", word)]


def differences(theirs, ours, path=""):
    """The lines that say where two results differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for key in [*theirs, *(key for key in ours if key not in theirs)]:
            if not key.startswith("output of"):
                yield from differences(theirs.get(key, "nothing"), ours.get(key, "nothing"), f"{path}/{key}")
    elif isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours) and "/artifacts" not in path:
        for number, (one, other) in enumerate(zip(theirs, ours, strict=True)):
            yield from differences(one, other, f"{path}/{number}")
    elif theirs != ours:
        yield f"{path}: Metaflow {theirs!r}, flowstore {ours!r}"


def main():
    """Compare, print what differs, and exit with 1 where anything does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--metaflow", required=True, metavar="PYTHON", help="the Python that has Metaflow")
    parser.add_argument("--output", action="store_true", help="show what flows that differ printed")
    parser.add_argument("names", nargs="*", metavar="NAME", help="flows, by the names of their files")
    chosen = parser.parse_args()
    files = [file for file in FLOWS if not chosen.names or file.stem in chosen.names]
    pythons = ([chosen.metaflow], [sys.executable, "-m", "flowstore.metaflow"])
    count = 0
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        pairs = [[pool.submit(results_of, file, python) for python in pythons] for file in files]
        for file, pair in zip(files, pairs, strict=True):
            theirs, ours = (one.result() for one in pair)
            meant = meant_in(file.read_text("utf-8"))
            lines = [line for line in differences(theirs, ours) if not any(text in line for text in meant)]
            count += bool(lines)
            print(f"{file.stem}: {'differs' if lines else 'the same'}", flush=True)
            for line in lines:
                print(f"    {line[:600]}")
            if lines and chosen.output:
                for who, result in (("Metaflow", theirs), ("flowstore", ours)):
                    printed = [text for key, text in result.items() if key.startswith("output of")]
                    print(f"--- {who}", *printed, sep="\n")
    print(f"{len(files) - count} of {len(files)} flows are the same.")
    sys.exit(1 if count else 0)


if __name__ == "__main__":
    main()
