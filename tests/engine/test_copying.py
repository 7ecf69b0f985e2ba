import pytest
import torch

from sightline.config.errors import RunError
from sightline.engine.copying import copy_exactly


def test_all_tensors_are_copied():
    own = {"a": torch.zeros(2), "b": torch.zeros(())}
    copy_exactly(own, {"b": torch.tensor(3.0), "a": torch.ones(2)}, where="file", what="weights", cure="")
    assert own["a"].tolist() == [1, 1]
    assert own["b"] == 3


def test_of_what_does_not_fit_nothing_is_copied_and_the_first_are_named():
    own = {"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1), "d": torch.zeros(1)}
    given = {"a": torch.ones(2), "b": torch.ones(4), "c": torch.ones(1, dtype=torch.float64), "e": torch.ones(1)}
    with pytest.raises(RunError) as error:
        copy_exactly(own, given, where="runs/1", what="weights", cure="Use another file.")
    assert str(error.value) == (
        "runs/1: 4 of 4 weights do not fit. b: file (4,), model (3,); c: file (1,) torch.float64, model (1,) "
        "torch.float32; d is missing; and 1 more.\n  Use another file."
    )
    assert not any(tensor.any() for tensor in own.values())
