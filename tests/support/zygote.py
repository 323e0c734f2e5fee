"""A process that has flowstore imported and forks for each `python flow.py`, which so starts several times sooner.

What is forked is what the interpreter would have become: a `__main__` of its own, with these arguments, variables,
folder and streams, and an end of its own. It differs in what its caller must ask a fresh interpreter for: the options
and variables that Python itself reads as it starts.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

_READ_AS_PYTHON_STARTS = ("PYTHON", "LC_", "LANG", "TZ", "LD_", "MALLOC_", "OMP_", "COVERAGE_")
_HEADER = struct.Struct("!Q")


class Zygote:
    """The process, from the first fork on until this one ends."""

    def __init__(self):
        self._lock = threading.Lock()
        self._socket = None
        self._pid = None
        self._env = {**os.environ, "PYTHONWARNINGS": "error"}

    def serves(self, words, env):
        """Whether `python WORDS` with these variables need not have an interpreter of its own."""
        is_ours = words[0].endswith(".py") or words[:2] == ["-m", "flowstore"]
        return is_ours and sys.platform == "linux" and _read_early(env) == _read_early(self._env)

    def fork(self, request, descriptors):
        """Let it fork: for the request and with the descriptors."""
        data = json.dumps(request).encode()
        with self._lock:
            if self._pid != os.getpid():
                self._start()
            socket.send_fds(self._socket, [_HEADER.pack(len(data))], descriptors)
            self._socket.sendall(data)

    def _start(self):
        self._socket, theirs = socket.socketpair()
        self._pid = os.getpid()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                cwd="/",
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # pipes, as what it forks has
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )


def _read_early(env):
    """The variables that are read before any program is."""
    return {name: value for name, value in env.items() if name.startswith(_READ_AS_PYTHON_STARTS)}


ZYGOTE = Zygote()


class Forked(subprocess.Popen):
    """A process that the zygote forks; to its user it is like any other."""

    def _execute_child(self, args, _executable, _preexec_fn, _close_fds, _pass_fds, cwd, env, *rest):
        _startupinfo, _creationflags, _shell, *ends = rest[:9]
        stdin, _, _, stdout, _, stderr = ends
        self._ended, theirs = os.pipe()
        os.umask(umask := os.umask(0))
        request = {"argv": args, "folder": os.path.abspath(cwd), "env": env, "umask": umask}
        try:
            ZYGOTE.fork(request, [stdin, stdout, stderr, theirs])
        finally:
            os.close(theirs)
        self._close_pipe_fds(*ends)
        self.pid = self._read()
        self._child_created = True

    def _read(self):
        data = os.read(self._ended, 8)
        return struct.unpack("!q", data)[0] if data else None

    def _internal_poll(self, _deadstate=None):
        with self._waitpid_lock:
            if self.returncode is None and select.select([self._ended], [], [], 0)[0]:
                self._took()
        return self.returncode

    def _wait(self, timeout):
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout)
            self._internal_poll()
        return self.returncode

    def _took(self):
        status = self._read()
        self.returncode = os.waitstatus_to_exitcode(status) if status is not None else -9
        os.close(self._ended)


def _serve(connection):
    """Fork for each request; return the request in what was forked."""
    while True:
        header, descriptors, _, _ = socket.recv_fds(connection, _HEADER.size, 4)
        if not header:
            os._exit(0)
        request = json.loads(_received(connection, *_HEADER.unpack(header)))
        if os.fork() == 0:
            connection.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            *streams, ended = descriptors
            if (child := os.fork()) == 0:
                os.close(ended)
                return request, streams
            _watch(child, streams, ended)
        for descriptor in descriptors:
            os.close(descriptor)


def _received(connection, size):
    data = b""
    while len(data) < size:
        data += connection.recv(size - len(data))
    return data


def _watch(child, streams, ended):
    """Tell the process and how it ended, as only its parent can."""
    for descriptor in streams:
        os.close(descriptor)
    os.write(ended, struct.pack("!q", child))
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(BrokenPipeError):
        os.write(ended, struct.pack("!q", status))
    os._exit(0)


def _become(request, streams):
    """Be as `python ARGV` is when it has started; return the program's code and its module's namespace."""
    os.setsid()
    for target, descriptor in enumerate(streams):
        os.dup2(descriptor, target)
    os.closerange(3, 64)
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["env"])
    flowstore.context.STARTED_AT = time.time()
    python, *words = request["argv"]
    sys.orig_argv[:] = [python, *words]
    if words[0] == "-m":
        sys.path[0] = request["folder"]
        return _module(words[1], words[2:])
    sys.path[0] = str(Path(os.path.abspath(words[0])).parent)
    sys.argv[:] = words
    return _program(words[0])


def _program(file):
    """The code of a file that is run by its name."""
    from importlib.machinery import SourceFileLoader

    path = os.path.abspath(file)
    loader = SourceFileLoader("__main__", path)
    code = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    return code, {"__file__": path, "__loader__": loader, "__spec__": None, "__package__": None}


def _module(name, words):
    """The code of a module that is run by its name."""
    import runpy

    name, spec, code = runpy._get_module_details(name)
    sys.argv[:] = [spec.origin, *words]
    own = {"__file__": spec.origin, "__loader__": spec.loader, "__spec__": spec, "__package__": spec.parent}
    return code, own


_COMMANDS_NEED = (  # modules that many commands import where they use them
    "flowstore.cli.flow.deploy", "flowstore.cli.flow.results", "flowstore.cli.flow.run", "flowstore.cli.inspect",
    "flowstore.cli.main", "flowstore.cli.runs", "flowstore.flow.members", "flowstore.run.checks",
    "flowstore.run.driver", "flowstore.run.local.executor", "flowstore.run.local.server", "flowstore.run.start",
    "flowstore.store.codecs.plain_json", "flowstore.store.codecs.raw_bytes", "hmac", "zoneinfo",
)  # fmt: skip

if __name__ == "__main__":
    import gc
    import importlib
    from types import ModuleType

    sys.path[0] = ""
    import flowstore.later

    for _name in _COMMANDS_NEED:
        importlib.import_module(_name)
    for _name in flowstore.__all__:  # `from flowstore import *`, as the tests' flows have it, imports even asyncio
        getattr(flowstore, _name)

    flowstore.later.complete_all()  # once, for all that is forked
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _code, _own = _become(*_serve(socket.socket(fileno=int(sys.argv[1]))))
    sys.modules["__main__"] = _main = ModuleType("__main__")
    _main.__dict__.update(_own, __builtins__=__builtins__, __cached__=None, __annotations__={})
    exec(_code, _main.__dict__)
