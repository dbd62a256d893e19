"""Several processes for one run: torch's elastic engine starts this module's `main` once for each device.

The ranks start from the frozen config of the run folder and never compose. Hydra's process waits, and evaluates alone.

Of several machines, which share the folder and meet at MASTER_ADDR:MASTER_PORT, the first one makes the run and
evaluates it, and the others only lend their devices.
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

from autoencoders.errors import UserError
from autoencoders.log import start_log
from autoencoders.run import Run
from autoencoders.train import count_processes, fit

PATIENCE = 600  # seconds, for another machine to begin
_MISTAKE = "mistake.txt"


def launch(run: Run, processes: int) -> None:
    """Train the run in `processes` processes of this machine, and wait for them.

    Raises UserError with a rank's own mistake, or where one died. No process is left behind.
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
        elastic_launch(config, sys.executable)("-m", "autoencoders", "worker", str(run.folder), *run.trust)
    except SignalException as error:
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if mistake.exists():
            raise UserError(mistake.read_text()) from error
        raise UserError(
            f"process {rank} of {processes} ended with exit code {failure.exitcode}: its output stands above"
        ) from error
    finally:
        mistake.unlink(missing_ok=True)
        for number, handler in handlers.items():  # the engine leaves its own
            signal.signal(number, handler)


def join(folder: Path, config: DictConfig) -> float:
    """On every machine but the first: lend the devices to the run that the first one starts in the same folder.

    Returns no score: that is the first one's. Raises UserError where no run appears.
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


def _meeting_point() -> str:
    address = os.environ.get("MASTER_ADDR") or os.environ.get("SLURM_LAUNCH_NODE_IPADDR")
    if not address:
        raise UserError("trainer.num_nodes is above 1: set MASTER_ADDR, and MASTER_PORT, to those of the first machine")
    return f"{address}:{os.environ.get('MASTER_PORT', '29500')}"


def main(folder: str, *trust: str) -> None:
    """One rank: train, and leave everything in the run folder."""
    _end_with_parent()
    rank = int(os.environ["RANK"])
    torch.set_num_threads(max((os.cpu_count() or 1) // int(os.environ["LOCAL_WORLD_SIZE"]), 1))
    run = Run(folder, trust)
    start_log(run.folder, quiet=rank > 0)
    try:
        fit(run)
    except UserError as error:
        Path(folder, _MISTAKE).write_text(str(error))
        sys.exit(1)


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its ranks: they watch for its end themselves."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
