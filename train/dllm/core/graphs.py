"""Steps of fixed shapes as CUDA graphs: what a step launches is recorded once for each of its shapes, and then replayed
at the cost of one launch.

A graph reads and writes the memory that it was recorded with. So its inputs are copied into buffers of their own, what
it returns is copied out, and the memory of the keys and values is lent to one generation at a time and kept for the
next. On a CPU the same buffers are filled and the step is run on them.
"""

import weakref
from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


class Recorder:
    """The graphs of one generation at a time.

    weights   addresses of the model's weights: what was recorded for others is of no use
    user      a weak reference to the generation under way
    memory    [n] for keys and values, given out by `lend`
    """

    def __init__(self, weights: list[int]):
        self.weights, self.user = weights, None
        self.recordings, self.pool, self.memory = {}, None, None

    def run(self, key: Hashable, function: Callable, *inputs):
        """function(*inputs) for tensors, or lists and dicts of them; `key` tells all else that the call depends on."""
        key = (key, *((each.shape, each.dtype) for each in pytree.tree_leaves(inputs)))
        if key not in self.recordings:
            self.recordings[key] = self._record(function, pytree.tree_map(torch.clone, inputs))
        buffers, replay = self.recordings[key]
        torch._foreach_copy_(pytree.tree_leaves(buffers), pytree.tree_leaves(inputs))
        return pytree.tree_map(torch.clone, replay())

    def lend(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Memory of this shape. It is the same as the last one's, whatever its shape, unless that was too small."""
        size = torch.Size(shape).numel()
        if self.memory is None or self.memory.numel() < size or self.memory.dtype != like.dtype:
            self.recordings.clear()
            self.memory = like.new_empty(size)
        return self.memory[:size].view(shape)

    def _record(self, function: Callable, buffers: tuple) -> tuple[tuple, Callable]:
        """The buffers, and a call that does the function on what they hold."""
        if pytree.tree_leaves(buffers)[0].device.type != "cuda":
            outputs = function(*buffers)

            def replay():  # as a graph does it, into the same outputs
                for output, value in zip(*map(pytree.tree_leaves, (outputs, function(*buffers))), strict=True):
                    output.copy_(value)
                return outputs

            return buffers, replay
        aside = torch.cuda.Stream()  # libraries set themselves up in a first call, which cannot be recorded
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            function(*buffers)
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            outputs = function(*buffers)
        self.pool = graph.pool()
        return buffers, lambda: graph.replay() or outputs


class _Recorders(list):
    """Those of a model; they are no part of its copies."""

    def __reduce_ex__(self, protocol):
        return _Recorders, ()


def recorder(model: nn.Module, user: object) -> Recorder:
    """A recorder of the model that nobody uses, for `user` as long as it lives."""
    weights = [weight.data_ptr() for weight in model.parameters()]
    recorders = vars(model).setdefault("_recorders", _Recorders())
    recorders[:] = [each for each in recorders if each.weights == weights]
    found = next((each for each in recorders if each.user() is None), None)
    if found is None:
        found = Recorder(weights)
        recorders.append(found)
    found.user = weakref.ref(user)
    return found
