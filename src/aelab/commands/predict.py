"""`ae predict run=DIR data.root=FILES output=DIR`: codes, reconstructions and scores of new data."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from aelab.composition.explain import task_of_run
from aelab.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

SHOWN = 20  # flagged files that are printed
KEYS = {
    "output": str,
    "what": list[Literal["codes", "reconstructions", "scores"]],
    "codes": str,
    "layer": str | None,
    "by": Literal["error", "distance"],
    "quantile": float,
    "split": Literal["train", "val", "test"],
}


def main(config: "DictConfig") -> None:
    """Write what the model makes of new data, and print the files that are flagged, worst first."""
    with task_of_run("predict", config, KEYS) as run:
        from omegaconf import open_dict

        from aelab.composition.instantiate import build
        from aelab.training.prediction import known, predict, unknown

        output = Path(config.output)
        if not 0 < config.quantile < 1:
            raise UserError(f"quantile={config.quantile} must lie between 0 and 1")
        if config.data.get("_target_"):
            with open_dict(config.data):
                for key in () if "split_by" in config.data else ("resize", "skip_broken"):  # keys of data=folder
                    del config.data[key]
            source = known(run, config.data, config.split, list(config.trust))
        elif config.data.root is None:
            raise UserError(
                "data.root is missing: type data.root=FOLDER with files, or a known source such as data=mnist"
            )
        else:
            source = unknown(run, config.data.root, output, config.data.resize, config.checkpoint)
        scores, broken = predict(
            run,
            output,
            source,
            list(config.what),
            build(config.noise, list(config.trust)),
            config.codes,
            config.by,
            config.quantile,
            config.checkpoint,
            config.layer,
        )
        strange = [score for score in scores if score[3]]
        for name, value, _, _ in strange[:SHOWN]:
            print(f"{value:12.5g}  {name.encode(errors='replace').decode()}")
        if scores:
            more = f", of which {SHOWN} are shown" if len(strange) > SHOWN else ""
            print(f"{len(strange)} of {len(scores)} above the threshold {scores[0][2]:.5g}{more}")
        print(output)
        if broken and not config.data.get("skip_broken"):
            raise UserError(f"{len(broken)} of {len(source.names)} files could not be read. The first: {broken[0]}")
