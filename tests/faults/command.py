"""Commands as processes, where a fault strikes at one point.

This process imports everything once. For each line of standard input, a request in JSON, it forks a process
that runs one command, or waits for one; it answers with a line, the process's id or exit status.

$RSTBENCH_FAULT of a command says in JSON what strikes and where. at: [["module:function", n], …]: from the
n-th call of the first on the second is counted, and so on; as the last is called, the fault strikes. do: the
name of a function below, with its arguments. worker: whether it strikes in a worker.
once: a file that is made as it strikes, after which it strikes no more.
"""

from __future__ import annotations

import functools
import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import rstbench
from rstbench.cli import main


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt():
    """Ctrl-C, which a terminal sends to all processes that it started."""
    os.killpg(0, signal.SIGINT)


def fill(path):
    """Leave no free byte on the disk that the file is on."""
    with Path(path).open("wb", buffering=0) as file:
        for size in (2**16, 2**12, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue


def limit_files():
    """Let no file grow: for this process as if the disk were full."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def limit_memory(mib):
    """Leave so much more memory than is in use now."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + mib * 2**20,) * 2)


def set_clock_back(seconds):
    real = time.time
    time.time = lambda: real() - seconds


def pause(reached, go):
    """Tell that this point is reached, and wait for the second file."""
    Path(reached).touch()
    while not Path(go).exists():
        time.sleep(0.05)


def copy(source, target):
    Path(target).write_bytes(Path(source).read_bytes())


def call(*command):
    subprocess.run(command, check=True)


def arm(fault):
    points = [[name, count, 0] for name, count in fault["at"]]

    def passing(index):
        current = next((i for i, (_, wanted, seen) in enumerate(points) if seen < wanted), None)
        if current != index:
            return
        points[index][2] += 1
        if index == len(points) - 1 and points[index][2] == points[index][1] and is_first(fault.get("once")):
            name, *arguments = fault["do"]
            globals()[name](*arguments)

    for index, (name, *_) in enumerate(points):
        module, _, path = name.partition(":")
        holder = functools.reduce(getattr, path.split(".")[:-1], importlib.import_module(module))
        last = path.split(".")[-1]
        setattr(holder, last, announced(getattr(holder, last), functools.partial(passing, index)))


def announced(function, announce):
    @functools.wraps(function)
    def instead(*arguments, **more):
        announce()
        return function(*arguments, **more)

    return instead


def is_first(path):
    if path is None:
        return True
    try:
        Path(path).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def serve():
    """Answer requests until there are no more; returns in each process that is forked, with its arguments."""
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = ended(request["wait"], request["seconds"])
        elif answer := os.fork():
            pass
        else:
            become(request)
            return request["arguments"]
        print(answer, flush=True)
    os._exit(0)


def ended(pid, seconds):
    """Return the exit status of a process, as `subprocess` does; one that takes longer is killed."""
    deadline = time.monotonic() + seconds
    while not (found := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    return os.waitstatus_to_exitcode(found[1])


def become(request):
    """Be a process of its own, in its own folder, that writes to files."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background ignore it
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    tempfile.tempdir = None  # read again from the environment
    for descriptor, path in enumerate((os.devnull, request["out"], request["err"])):
        opened = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(opened, descriptor)
        os.close(opened)


def strike():
    """Arm the fault that the environment names, where it is for this process: a worker imports this file."""
    fault = json.loads(os.environ.get("RSTBENCH_FAULT", "null"))
    if fault and fault.get("worker", False) == (__name__ != "__main__"):
        arm(fault)


if __name__ == "__main__":
    for module in pkgutil.walk_packages(rstbench.__path__, "rstbench."):
        if not module.name.startswith(
            ("rstbench.__main__", "rstbench.models.exports", "rstbench.models.sources")
        ):
            importlib.import_module(module.name)
    for module in ("matplotlib.pyplot", "sklearn.datasets", "tomli_w", "jinja2", "torch._dynamo"):
        importlib.import_module(module)
    gc.freeze()  # what was imported is looked through no more
    sys.argv[1:] = serve()
strike()
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
