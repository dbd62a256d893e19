"""What a named layer of a trained model computes."""

from typing import Any

from torch import Tensor, nn

from aelab.errors import UserError, did_you_mean


class Layer:
    """Keeps the output of a module `name` of a model at its latest call, flattened to (B, D).

    Of several outputs it is the first. Raises UserError for a name that the model does not have.
    """

    def __init__(self, model: nn.Module, name: str) -> None:
        modules = {key: module for key, module in model.named_modules() if key}
        if name not in modules:
            some = ", ".join(key for key in modules if key.count(".") < 2)
            raise UserError(f"no layer '{name}'{did_you_mean(name, modules)} (there are {some}, and those inside them)")
        self.name = name
        self.output: Any = None
        modules[name].register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.output = output

    def values(self) -> Tensor:
        """Return the activations (B, D), on the CPU. Raises UserError if the layer was not called or gave no tensor."""
        found = self.output[0] if isinstance(self.output, tuple) else self.output
        if not isinstance(found, Tensor):
            raise UserError(f"layer={self.name} computes no numbers of the data: type another layer")
        return found.detach().flatten(1).float().cpu()
