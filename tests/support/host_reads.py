"""Notices what reads a tensor on the host, where a GPU would have to finish all that was launched.

On a CPU nothing would wait; what is watched are the operations, whatever the device.
"""

import contextlib

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

# What item, bool, float and int become, and what finds out how many elements are selected.
READING_OPERATIONS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::equal",
}
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_"}
# In inference mode, item becomes no operation that is seen.
METHOD_NAMES = ("cpu", "tolist", "numpy", "item", "__bool__", "__float__", "__int__", "__index__")
READING_METHODS = {
    *(getattr(torch.Tensor, name) for name in METHOD_NAMES),
    torch.nn.functional.one_hot,
}


class ReadingOperations(TorchDispatchMode):
    def __init__(self, reads):
        super().__init__()
        self._reads = reads

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name
        # How many elements a mask selects is only known after it was read.
        is_masked = name in INDEXING and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        )
        if is_masked or name in READING_OPERATIONS:
            self._reads.append(name)
        return func(*args, **(kwargs or {}))


class ReadingMethods(TorchFunctionMode):
    def __init__(self, reads):
        super().__init__()
        self._reads = reads

    def __torch_function__(self, func, types, args=(), kwargs=None):
        # A device that is passed on is that of another tensor, which is a GPU elsewhere.
        values = (*args[1:], *(kwargs or {}).values())
        is_to_cpu = func is torch.Tensor.to and any(
            isinstance(one, str) and one == "cpu" for one in values
        )
        if func in READING_METHODS or is_to_cpu:
            self._reads.append(getattr(func, "__name__", "to"))
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def host_reads():
    """Yield a list to which the name of each operation is added that reads a tensor."""
    reads = []
    with ReadingMethods(reads), ReadingOperations(reads):
        yield reads
