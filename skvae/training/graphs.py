"""A training step recorded as a CUDA graph, whose kernels the host launches at once.

A step of a small model is dozens of kernels that each take less time than their launch.
Not measured, and not yet run on a GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor

from skvae.training.batches import Batch
from skvae.training.objectives import Beta, is_one
from skvae.training.steps import Step, Weigh

# Records work on tensors that stay where they are: the result's place, and what does
# the work again.
Record: TypeAlias = Callable[[Callable[[], Tensor]], tuple[Tensor, Callable[[], None]]]

# What of a batch a step reads.
_READ = ("x", "observed", "weight", "unit", "seen")

# Torch records one graph at a time in a process.
_recording = threading.Lock()


def record_on_cuda(work: Callable[[], Tensor]) -> tuple[Tensor, Callable[[], None]]:
    """Record work as a CUDA graph, in its own pool of memory.

    It is done once before, on a stream of its own as torch asks for, so that all that
    is made at the first time only is there. It is recorded on the same stream: torch's
    own for that is one of the device that recorded first.
    """
    aside, present = torch.cuda.Stream(), torch.cuda.current_stream()
    aside.wait_stream(present)
    with torch.cuda.stream(aside):
        work()
    present.wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # What other threads ask of the device meanwhile is no part of this.
    alone = "thread_local"
    with (
        _recording,
        torch.cuda.graph(graph, stream=aside, capture_error_mode=alone),
    ):
        result = work()
    return result, graph.replay


class GraphStep:
    """A step that is recorded once and then replayed, batch by batch.

    Recorded is what the host decides: the number of rows, what they have beside their
    cells, how they are weighed, whether the KL has a weight. Numbers are copied to
    where the recorded work reads them.

    Parameters
    ----------
    step : Step
        Without random draws of its own, and free of decisions that hang on numbers.
    record : callable
    """

    def __init__(self, step: Step, record: Record = record_on_cuda) -> None:
        self.name = f"{step.name}, as a CUDA graph"
        self._step, self._record = step, record
        self._recorded: dict[Hashable, _Recorded] = {}

    def __call__(self, batch: Batch, beta: Beta, weigh: Weigh) -> Tensor:
        """Loss of the batch, to be read before the next call; its gradient beside."""
        # Of rows made block by block, not every block has holes.
        given = tuple(name for name in _READ if getattr(batch, name) is not None)
        key = (batch.x.shape[1], given, weigh, is_one(beta))
        if key not in self._recorded:
            with torch.cuda.device_of(batch.x):
                self._recorded[key] = _Recorded(
                    self._step, batch, given, beta, weigh, self._record
                )
        return self._recorded[key](batch, beta)


class _Recorded:
    """A recorded step, and the places that it reads."""

    def __init__(
        self,
        step: Step,
        batch: Batch,
        given: tuple[str, ...],
        beta: Beta,
        weigh: Weigh,
        record: Record,
    ) -> None:
        self._given = given
        places: dict[str, Any] = {
            name: torch.empty_like(getattr(batch, name)) for name in given
        }
        self._batch = replace(batch, **places)
        self._beta: Beta = 1.0
        if not is_one(beta):
            self._beta = batch.x.new_empty(
                beta.shape if isinstance(beta, Tensor) else (1, 1)
            )
        self._fill(batch, beta)
        self._loss, self._again = record(lambda: step(self._batch, self._beta, weigh))

    def __call__(self, batch: Batch, beta: Beta) -> Tensor:
        self._fill(batch, beta)
        self._again()
        return self._loss

    def _fill(self, batch: Batch, beta: Beta) -> None:
        for name in self._given:
            getattr(self._batch, name).copy_(getattr(batch, name))
        if isinstance(self._beta, Tensor):
            if isinstance(beta, Tensor):
                self._beta.copy_(beta)
            else:
                self._beta.fill_(beta)
