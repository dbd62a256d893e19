"""What a metric group or a figure needs of a trained model and its data, and the sentence that explains a refusal."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from aelab.composition.trained import Trained
from aelab.errors import Unsupported

Needs = tuple[Callable[[Trained], bool], str]
_Function = TypeVar("_Function", bound=Callable[..., Any])


def _training_classes(trained: Trained) -> int:
    _, labels, indices = trained.data.splits["train"]
    return 0 if labels.is_floating_point() else len(labels[indices].unique())


TABLE: dict[str, Needs] = {
    "images": (
        lambda trained: len(trained.data.shape) == 3 and trained.data.domain == "unit",
        "it is of images, and these data are none",
    ),
    "colours": (
        lambda trained: len(trained.data.shape) == 3 and trained.data.domain == "unit" and trained.data.shape[0] == 3,
        "it is of images in colour",
    ),
    "numbers": (
        lambda trained: trained.data.domain != "tokens",
        "it is of numbers, and these data are tokens",
    ),
    "labels": (
        lambda trained: _training_classes(trained) > 1,
        "it needs labels of two classes or more",
    ),
    "vector": (
        lambda trained: len(trained.model.code_shape) == 1 and trained.model.latent_dim > 1,
        "it needs a code that is a vector of two units or more",
    ),
    "factors": (
        lambda trained: len(trained.data.factor_names) > 1,
        "it is of data of which two factors or more are known, such as data=sprites",
    ),
    "sparse": (
        lambda trained: trained.model.active is not None,
        "it is of sparse models, such as topk",
    ),
    "pair": (
        lambda trained: trained.data.size("test") > 1,
        "it needs two test data or more",
    ),
}


def needs(*names: str) -> Callable[[_Function], _Function]:
    """Decorate a figure f(trained, run), or the `__call__` of a metric group. What is not met raises Unsupported."""

    def decorate(function: _Function) -> _Function:
        @functools.wraps(function)
        def checked(*arguments: Any, **more: Any) -> Any:
            trained = next(one for one in arguments if isinstance(one, Trained))
            for name in names:
                met, sentence = TABLE[name]
                if not met(trained):
                    raise Unsupported(sentence)
            return function(*arguments, **more)

        return cast(_Function, checked)

    return decorate
