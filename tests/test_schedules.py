import math

import pytest

from aelab.schedules import Constant, Cosine, Cyclic, Linear


def test_constant():
    assert [Constant(3.0)(step) for step in (0, 10)] == [3.0, 3.0]


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (25, 2.0), (100, 5.0), (1000, 5.0)])
def test_linear(step, expected):
    assert Linear(1.0, 5.0, 100)(step) == pytest.approx(expected)


@pytest.mark.parametrize("step", [0, 10, 50, 99, 100, 500])
def test_cosine(step):
    done = min(step / 100, 1)
    assert Cosine(2.0, 0.0, 100)(step) == pytest.approx(1 + math.cos(math.pi * done))


def test_cyclic():
    it = Cyclic(0.0, 2.0, 100, 0.5)
    assert [it(step) for step in (0, 25, 50, 75, 99, 100, 125)] == [0.0, 1.0, 2.0, 2.0, 2.0, 0.0, 1.0]
    assert it.end == 2.0
