from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from loadgen.server.batcher import Batcher
from loadgen.server.checks import check_choice, check_ranges
from loadgen.server.profile import DeviceProfile
from loadgen.server.waiting import QueuePolicy, Waiting

DATATYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES",
    "BF16",
)  # fmt: skip
_MOST_JOBS = 1 << 20
_MOST_US = 3_600_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """Name an input or output of a model.

    Attributes:
        name: Of the tensor.
        datatype: KServe's name, such as "FP32".
        dims: Shape without the batch; -1 for any.
    """

    name: str
    datatype: str = "FP32"
    dims: tuple[int, ...] = (-1,)

    def __post_init__(self) -> None:
        check_choice(self, "datatype", DATATYPES)
        if not self.name:
            raise ValueError("TensorSpec name '': must not be empty")
        if not all(type(dim) is int and dim >= -1 for dim in self.dims):
            raise ValueError(f"TensorSpec dims {self.dims!r}: must be whole numbers, -1 for any")


def first_repeated(specs: Sequence[TensorSpec]) -> int | None:
    """Return the index of the first tensor whose name an earlier one has, or None."""
    names = [spec.name for spec in specs]
    return next((index for index, name in enumerate(names) if name in names[:index]), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """Say how many copies of a model run where: Triton's ModelInstanceGroup.

    Attributes:
        count: Copies, on each device that is listed.
        kind: "KIND_CPU": each copy has a processor of its own, and slows no other. "KIND_GPU": the copies share the
            devices that are listed.
        gpus: Numbers of the devices; empty: 0. A MIG slice is a device of its own, with the profile of a slice.
    """

    count: int = 1
    kind: Literal["KIND_CPU", "KIND_GPU"] = "KIND_GPU"
    gpus: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_ranges(self, (("count", 1, 64),))
        check_choice(self, "kind", ("KIND_CPU", "KIND_GPU"))
        if not all(type(gpu) is int and 0 <= gpu < 64 for gpu in self.gpus):
            raise ValueError(f"Instances gpus {self.gpus!r}: must be whole numbers between 0 and 63")

    def places(self) -> list[int | None]:
        """Return the device of each copy; None for a processor of its own."""
        if self.kind == "KIND_CPU":
            return [None] * self.count
        return [gpu for gpu in self.gpus or (0,) for _ in range(self.count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """Say what work a request is before or after the device.

    Attributes:
        time_ms: Work for each row, milliseconds; 0: there is no such stage.
        workers: Requests that can be worked on at once.
        max_queue_size: Most requests that wait for a worker; beyond it the server answers 503.
    """

    time_ms: float = 0.0
    workers: int = 1
    max_queue_size: int = 1024

    def __post_init__(self) -> None:
        check_ranges(self, (("time_ms", 0, 60_000), ("workers", 1, 256), ("max_queue_size", 0, _MOST_JOBS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Configure one model: its tensors, its levers, and what it runs on.

    Attributes:
        name: Of the model.
        platform: What it says it is.
        max_batch_size: Most rows in a batch; 0: its tensors have no batch, and each request goes alone.
        batching: "dynamic": see `Batcher`. "static": only full batches leave. "none": each request goes alone.
        preferred_batch_sizes: Rows at which a batch leaves at once; empty for `max_batch_size` alone.
        max_queue_delay_us: Longest wait of the oldest job while an instance is free, microseconds.
        preserve_ordering: Replies leave in the order in which the batches were formed, whoever was faster.
        priority_levels: Levels, 1 the first to be served; 0: there are none.
        default_priority_level: Of requests that name none; needed where there are levels.
        queue: Policy of the queue.
        priority_queues: Policy of the levels that have one of their own.
        instances: Where it runs; at least one entry.
        inputs: Tensors that it takes.
        outputs: Tensors that it gives.
        device: The simulated device that it runs on.
        compute: "simulated", or the name of a network that torch runs, see `torch_models`.
        preprocess: Work before the device.
        postprocess: Work after it.
        overlap: That work has workers of its own, beside the device; else an instance does it, while its device waits.
        seed: Of all that is random.
    """

    name: str = "default"
    platform: str = "simulated"
    max_batch_size: int = 32
    batching: Literal["dynamic", "static", "none"] = "dynamic"
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int = 10_000
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    queue: QueuePolicy = field(default_factory=QueuePolicy)
    priority_queues: Mapping[int, QueuePolicy] = field(default_factory=lambda: MappingProxyType({}))
    instances: tuple[Instances, ...] = (Instances(),)
    inputs: tuple[TensorSpec, ...] = (TensorSpec(name="INPUT0"),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec(name="OUTPUT0"),)
    device: DeviceProfile = field(default_factory=DeviceProfile)
    compute: str = "simulated"
    preprocess: StageConfig = StageConfig()
    postprocess: StageConfig = StageConfig()
    overlap: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, (
            ("max_batch_size", 0, 65_536), ("max_queue_delay_us", 0, _MOST_US), ("priority_levels", 0, 64),
            ("default_priority_level", 0, 64), ("seed", 0, (1 << 63) - 1),
        ))  # fmt: skip
        check_choice(self, "batching", ("dynamic", "static", "none"))
        if not self.name or not self.name.isprintable() or "/" in self.name:
            raise ValueError(f"ModelConfig name {self.name!r}: must be printable, without '/', and not empty")
        most = self.max_batch_size
        if not all(type(size) is int and 1 <= size <= most for size in self.preferred_batch_sizes):
            raise ValueError(
                f"ModelConfig preferred_batch_sizes {self.preferred_batch_sizes!r}: "
                f"must be whole numbers between 1 and max_batch_size {most}"
            )
        levels, default = self.priority_levels, self.default_priority_level
        if levels and not 1 <= default <= levels:
            raise ValueError(
                f"ModelConfig default_priority_level {default}: must lie between 1 and priority_levels {levels}"
            )
        for name, specs in (("inputs", self.inputs), ("outputs", self.outputs)):
            if (repeated := first_repeated(specs)) is not None:
                raise ValueError(f"ModelConfig {name} '{specs[repeated].name}': is the name of two of them")
        if not self.instances:
            raise ValueError("ModelConfig instances (): must have at least one entry")
        if not all(1 <= level <= levels for level in self.priority_queues):
            raise ValueError(
                f"ModelConfig priority_queues {sorted(self.priority_queues)}: "
                f"must be levels between 1 and priority_levels {levels}"
            )

    @property
    def is_simulated(self) -> bool:
        """Say that the model gives back what it gets, after the simulated device's time."""
        return self.compute == "simulated"

    def batcher(self) -> Batcher:
        """Return the batching policy, over an empty queue."""
        waiting = Waiting(
            self.queue,
            levels=max(1, self.priority_levels),
            default_level=max(1, self.default_priority_level),
            policies=self.priority_queues,
        )
        if self.batching == "none" or not self.max_batch_size:
            return Batcher(waiting, max_batch_size=1, max_queue_delay_ns=0)
        return Batcher(
            waiting,
            max_batch_size=self.max_batch_size,
            preferred_sizes=self.preferred_batch_sizes,
            max_queue_delay_ns=None if self.batching == "static" else self.max_queue_delay_us * 1000,
        )
