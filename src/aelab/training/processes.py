"""Several processes for one run. torch's elastic engine starts this module once for each device.

The ranks start from the frozen config of the run folder and never compose. The process that Hydra started waits for
them, and evaluates alone. If several machines take part, they share the folder and meet at MASTER_ADDR:MASTER_PORT. The
first machine makes the run and evaluates it, and the others only lend their devices.
"""

import logging
import math
import os
import signal
import sys
import threading
import time
import uuid
from pathlib import Path

import torch
from omegaconf import DictConfig

from aelab.errors import UserError
from aelab.runs.log import start_log
from aelab.runs.run import Run
from aelab.training.fit import count_processes, fit

PATIENCE = 600  # seconds that a machine waits for the first one to begin
_MISTAKE = "mistake.txt"


def launch(run: Run, processes: int) -> None:
    """Train the run in `processes` processes of this machine, and wait for them. No process is left behind.

    Raises UserError with a rank's own mistake, or if a rank died.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    nodes = run.config.trainer.num_nodes
    config = LaunchConfig(
        min_nodes=nodes,
        max_nodes=nodes,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex if nodes == 1 else run.folder.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0" if nodes == 1 else _meeting_point(),
        max_restarts=0,
        monitor_interval=0.2,
    )
    mistake = run.folder / _MISTAKE
    handlers = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    }
    try:
        elastic_launch(config, sys.executable)("-m", __name__, str(run.folder), *run.trust)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if mistake.exists():
            raise UserError(mistake.read_text(encoding="utf-8")) from error
        raise UserError(
            f"process {rank} of {processes} ended with exit code {failure.exitcode}: its output stands above"
        ) from error
    finally:
        mistake.unlink(missing_ok=True)
        for number, handler in handlers.items():  # the engine leaves its own handlers behind
            signal.signal(number, handler)


def join(folder: Path, config: DictConfig) -> float:
    """Lend the devices of this machine to the run that the first machine starts in the same folder.

    Return no score, because the first machine has it. Raises UserError if no run appears.
    """
    deadline = time.monotonic() + PATIENCE

    def begun() -> bool:
        return (folder / "config.yaml").is_file() and Run(folder).manifest.get("status") == "running"

    while not begun():
        if time.monotonic() > deadline:
            raise UserError(f"no run was started in {folder}: type the same hydra.run.dir=… on every machine")
        time.sleep(0.5)
    launch(Run(folder, config.trust), count_processes(config.trainer))
    return math.nan


def node() -> int:
    """Return which of several machines this is, as torchrun, SLURM or the user says."""
    names = ("NODE_RANK", "GROUP_RANK", "SLURM_NODEID")
    return int(next((os.environ[name] for name in names if name in os.environ), 0))


def _meeting_point() -> str:
    address = os.environ.get("MASTER_ADDR") or os.environ.get("SLURM_LAUNCH_NODE_IPADDR")
    if not address:
        raise UserError("trainer.num_nodes is above 1: set MASTER_ADDR, and MASTER_PORT, to those of the first machine")
    return f"{address}:{os.environ.get('MASTER_PORT', '29500')}"


def main(folder: str, *trust: str) -> None:
    """Be one rank: train, and leave everything in the run folder."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    _end_with_parent()
    rank = int(os.environ["RANK"])
    torch.set_num_threads(max((os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"]), 1))
    run = Run(folder, trust)
    start_log(run.folder, quiet=rank > 0)
    try:
        fit(run)
    except UserError as error:
        Path(folder, _MISTAKE).write_text(str(error), encoding="utf-8")
        sys.exit(1)


def _end_with_parent() -> None:
    """Watch for the end of the parent, because a parent that was killed cannot stop its ranks."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
