"""Where what is said while training goes: to the console and to the `train.log` of a run."""

import logging
import sys
import warnings
from pathlib import Path


class Console(logging.Handler):
    """Plain `print`, so that a rich progress bar, which stands in for the terminal, keeps its line below."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__()
        self.stderr = stderr

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr if self.stderr else sys.stdout, flush=True)


def start_log(folder: Path, quiet: bool = False) -> None:
    """Send what is logged to the console (unless `quiet`) and to `train.log`; of libraries, warnings only."""
    file = logging.FileHandler(folder / "train.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    stop_log()
    logging.getLogger().addHandler(file)
    start_console(None if quiet else Console())


def stop_log() -> None:
    """Close the `train.log` that is open, if one is."""
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()


def start_console(console: logging.Handler | None) -> None:
    """Show what this program logs, and nothing of what libraries say that does not help anybody."""
    import lightning.pytorch  # noqa: F401  (sets the levels of its loggers when it is first imported)

    own = logging.getLogger("autoencoders")
    own.setLevel(logging.INFO)
    own.handlers = [console] if console else []
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    for true_but_useless in ("Experiment logs directory", "The number of training batches", ".*LeafSpec"):
        warnings.filterwarnings("ignore", true_but_useless)
