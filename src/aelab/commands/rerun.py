"""`ae rerun run=DIR`: the same run once more in a new folder, and what is not as it was then."""

import logging
import secrets
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from aelab.composition.explain import task_of_run
from aelab.runs.provenance import git_state, versions
from aelab.runs.run import Run

if TYPE_CHECKING:
    from omegaconf import DictConfig

log = logging.getLogger(__name__)


def main(config: "DictConfig") -> None:
    """Train the run again, beside it."""
    with task_of_run("rerun", config, {}) as run:
        rerun(run)


def rerun(run: Run) -> Run:
    """Train with the frozen config of a run, beside it in `NAME_rerun/`.

    Say what differs: code, versions, data and, in the end, the numbers. If nothing differs, the numbers on the same
    machine are equal to the last bit.
    """
    from aelab.training.complete import complete

    run.check_paths()
    folder = run.folder.parent.with_name(f"{run.folder.parent.name}_rerun")
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    then = run.manifest
    new = Run.start(
        folder / f"{stamp}_{secrets.token_hex(4)}", run.config, then.get("choices", {}), then.get("overrides", [])
    )
    for line in differences(run, new):
        log.warning("differs %s", line)
    complete(new)
    if then.get("data") != new.manifest["data"]:
        log.warning("differs data: fingerprint %s, now %s", then.get("data"), new.manifest["data"])
    old = {name: value for name, value in run.metrics.items() if name in new.metrics}
    changed = [name for name, value in old.items() if value != new.metrics[name]]
    for name in changed:
        log.warning("differs %s: %r, now %r", name, old[name], new.metrics[name])
    if not changed:
        log.info("same    %d numbers, to the last bit", len(old))
    return new


def differences(run: Run, new: Run) -> Iterator[str]:
    """Yield what was not the same when the two runs were started."""
    then, now = run.manifest, {**git_state(), "versions": versions()}
    if then.get("commit") != now["commit"]:
        yield f"code: commit {then.get('commit')}, now {now['commit']}"
    if _diff(run) != _diff(new):
        yield f"code: what was not committed, see {run.folder / 'code.diff'} and {new.folder / 'code.diff'}"
    for name, version in now["versions"].items():
        if then.get("versions", {}).get(name) != version:
            yield f"{name}: {then.get('versions', {}).get(name)}, now {version}"


def _diff(run: Run) -> str:
    path = run.folder / "code.diff"
    return path.read_text(encoding="utf-8") if path.exists() else ""
