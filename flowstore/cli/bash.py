"""Completion in bash, which takes a colon for the end of a word and so cuts `user:anne` in three.

The line is read whole instead, and what bash takes for earlier words is cut off from the answers.
"""

from __future__ import annotations

import os
from pathlib import PurePath

from click.shell_completion import BashComplete, add_completion_class, split_arg_string

_SCRIPT = """\
%(complete_func)s() {
    local IFS=$'\\n' completion
    COMPREPLY=()
    for completion in $(env COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1"); do
        case "${completion%%%%,*}" in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${completion#*,}") ;;
        esac
    done
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    source_template = _SCRIPT

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is being typed, and that one."""
        line = os.environ["COMP_LINE"]
        words = split_arg_string(line)
        typed = words.pop() if words and not line[-1:].isspace() else ""
        names = [PurePath(word).name for word in words]
        return words[names.index(self.prog_name) + 1 if self.prog_name in names else 1 :], typed

    def complete(self) -> str:
        """The answers, as bash replaces what stands after the last of its breaks by them."""
        args, typed = self.get_completion_args()
        value = typed.partition("=")[2] if typed.startswith("-") else typed
        breaks = set(":=") & set(os.environ.get("COMP_WORDBREAKS", ""))
        cut = 1 + max((value.rfind(each) for each in breaks), default=-1)
        return "\n".join(f"{item.type},{item.value[cut:]}" for item in self.get_completions(args, typed))


add_completion_class(_Bash, "bash")
