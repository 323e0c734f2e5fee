"""A Slurm cluster on this machine: munge, a controller, and nodes that are processes. Needs root, but no systemd.

To try things out by hand, run `python -m support.slurm` in `tests`, and set `SLURM_CONF` to what it prints.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

NODES = ("node1", "node2")
CPUS = 4  # of each node, whatever this machine has
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scancel", "setpriv")

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
KillWait=2
SlurmdTimeout=30
EnforcePartLimits=NO
SlurmctldParameters=enable_configless
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
GresTypes=gpu
{nodes}
PartitionName=main Nodes=node[1-2] Default=YES MaxTime=INFINITE DefMemPerCPU=100
PartitionName=short Nodes=node[1-2] MaxTime=5
PartitionName=physics Nodes=node[1-2] AllowAccounts=physics
PartitionName=down Nodes=node[1-2] State=DOWN
"""


def free_ports(count):
    """Return the numbers of ports that nobody uses."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [server.getsockname()[1] for server in sockets]


class Slurm:
    """A cluster whose daemons run in the foreground, so that they end with `close`.

    Args:
        folder: for all that it writes.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.config = self.folder / "slurm.conf"
        self.processes = {}
        controller, *ports = free_ports(1 + len(NODES))
        host = socket.gethostname()
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={CPUS} RealMemory=4000"
            + (" Gres=gpu:1 Feature=fast" if node == "node2" else "")
            for node, port in zip(NODES, ports, strict=True)
        ]
        self.config.write_text(
            CONFIG.format(host=host, controller=controller, folder=self.folder, nodes="\n".join(nodes))
        )
        (self.folder / "gres.conf").write_text("NodeName=node2 Name=gpu File=/dev/null\n")
        self.env = {"SLURM_CONF": str(self.config)}
        for name in ("state", "munge", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(mode=0o755)
        try:
            self._start_munge()
            self.start_controller()
            for node in NODES:
                self.start_node(node)
            self.wait_for_nodes()
        except BaseException:
            self.close()
            raise

    def start(self, name, *command):
        """Start a daemon in the foreground, in a session of its own."""
        with (self.folder / f"{name}.out").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *map(str, command)],  # nothing is left, however this process ends
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.env},
            )

    def _start_munge(self):
        folder = self.folder / "munge"
        key = folder / "key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        paths = [f"--{name}-file={folder / name}" for name in ("key", "log", "pid", "seed")]
        self.start("munged", "munged", "-F", "-f", f"--socket={folder / 'socket'}", *paths)
        self.wait((folder / "socket").exists, "munged")

    def start_controller(self):
        """Start the controller, again perhaps."""
        self.start("slurmctld", "slurmctld", "-D", "-f", self.config)

    def start_node(self, node):
        """Start the daemon of a node."""
        self.start(node, "slurmd", "-D", "-N", node, "-f", self.config)

    def wait_for_nodes(self):
        """Wait until all nodes are idle."""
        self.wait(lambda: self.states() == ["idle"] * len(NODES))

    def states(self):
        """Return the state of each node."""
        return self.ask("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split()

    def wait(self, condition, what="idle nodes", seconds=60):
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(file.read_text()[-2000:] for file in self.folder.glob("*.*") if file.suffix != ".conf")
                raise TimeoutError(f"{what} did not come:\n{self.ask('squeue')}\n{logs}")
            time.sleep(0.1)

    def ask(self, *command):
        """Run one of Slurm's commands; return what it prints."""
        environment = {**os.environ, **self.env}
        return subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment).stdout

    def jobs(self):
        """Return the ids of the jobs that wait or run."""
        return self.ask("squeue", "-h", "-o", "%i").split()

    def kill(self, name, how=signal.SIGKILL):
        """End a daemon."""
        os.killpg(self.processes[name].pid, how)
        self.processes.pop(name).wait()

    def close(self):
        """End all jobs and all daemons."""
        if "slurmctld" in self.processes:
            self.ask("scancel", "--quiet", "--user", "root")
            with contextlib.suppress(TimeoutError):
                self.wait(lambda: not self.jobs(), seconds=15)
        for name in list(self.processes):
            with contextlib.suppress(ProcessLookupError):
                self.kill(name)


def main():
    """Run a cluster until Ctrl-C."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = Slurm(folder)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # only now: children inherit it
        try:
            print(f"export SLURM_CONF={cluster.config}", flush=True)
            signal.sigwait({signal.SIGINT, signal.SIGTERM})
        finally:
            cluster.close()


def why_not():
    """Return why there can be no cluster here, or `None`."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"needs Slurm: {', '.join(missing)} not on the PATH"
    return None if os.getuid() == 0 else "needs root"


if __name__ == "__main__":
    main()
