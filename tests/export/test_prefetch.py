"""Batches that are drawn ahead are those that would be drawn in time."""

import os

import numpy as np
import pytest

from export.training.prefetch import Prefetch


def draw(step):
    return step, float(np.random.default_rng(step).random()), os.getpid()


@pytest.mark.parametrize("workers", [0, 2])
def test_every_step_gets_its_own_batch(workers):
    batches = Prefetch(draw, workers=workers)
    try:
        drawn = [batches(step) for step in range(9)]
    finally:
        batches.close()
    assert [each[:2] for each in drawn] == [draw(step)[:2] for step in range(9)]
    assert (os.getpid() in {pid for *_, pid in drawn}) == (workers == 0)


def test_a_run_that_goes_on_begins_where_it_was():
    batches = Prefetch(draw, workers=2)
    try:
        assert [batches(step)[0] for step in (40, 41, 42)] == [40, 41, 42]
    finally:
        batches.close()


def fail(step):
    raise ValueError(f"no batch of step {step}")


def test_what_goes_wrong_while_drawing_is_told():
    batches = Prefetch(fail, workers=1)
    try:
        with pytest.raises(ValueError, match="no batch of step 0"):
            batches(0)
    finally:
        batches.close()
