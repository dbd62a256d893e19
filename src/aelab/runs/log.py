"""Where log messages go: to the console, and to the `train.log` of a run."""

import logging
import sys
import threading
import warnings
from pathlib import Path


class Console(logging.Handler):
    """Prints each message. A rich progress bar redirects `print`, so it keeps its own line below the messages."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__()
        self.stderr = stderr

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr if self.stderr else sys.stdout, flush=True)


def start_log(folder: Path, quiet: bool = False) -> None:
    """Send messages to `train.log` and, unless `quiet`, to the console. Of libraries, only warnings are sent."""
    logging.raiseExceptions = False  # a log that cannot be written stops nothing, and prints no traceback
    threading.excepthook = _say  # nor does TensorBoard's writer
    file = logging.FileHandler(folder / "train.log", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    stop_log()
    logging.getLogger().addHandler(file)
    start_console(None if quiet else Console())


def _say(failure: threading.ExceptHookArgs) -> None:
    logging.getLogger("aelab").warning("%s", failure.exc_value)


def stop_log() -> None:
    """Close the `train.log` that is open, if there is one, and remove every other handler of the root logger."""
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()


def start_console(console: logging.Handler | None) -> None:
    """Show the messages of this program on `console`, and silence messages of libraries that help nobody."""
    own = logging.getLogger("aelab")
    own.setLevel(logging.INFO)
    own.handlers = [console] if console else []
    logging.captureWarnings(True)
    for harmless in ("Experiment logs directory", "The number of training batches", ".*LeafSpec"):
        warnings.filterwarnings("ignore", harmless)
    # Lightning sets the levels of its loggers when it is imported, so it is imported before they are set here.
    import lightning.pytorch  # noqa: F401

    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
