"""What the server says of itself and of its models, in the forms of KServe v2 and of Triton's extensions.

Sources: "Open Inference Protocol" (KServe, v2); of Triton's documents on protocols the extensions statistics and model
configuration.
"""

from typing import Any

from loadgen.server.kserve import VERSION
from loadgen.server.model_config import ModelConfig, TensorSpec
from loadgen.server.statistics import Statistics, Tally

EXTENSIONS = (
    "binary_tensor_data", "model_configuration", "parameters", "schedule_policy", "statistics",
)  # fmt: skip


def server_metadata(version: str) -> dict[str, Any]:
    """Return what `/v2` says."""
    return {"name": "opfind", "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(config: ModelConfig) -> dict[str, Any]:
    """Return what `/v2/models/M` says."""

    def told(spec: TensorSpec) -> dict[str, Any]:
        shape = [-1, *spec.dims] if config.max_batch_size else list(spec.dims)
        return {"name": spec.name, "datatype": spec.datatype, "shape": shape}

    return {
        "name": config.name,
        "versions": [VERSION],
        "platform": config.platform,
        "inputs": [told(spec) for spec in config.inputs],
        "outputs": [told(spec) for spec in config.outputs],
    }


def model_config(config: ModelConfig) -> dict[str, Any]:
    """Return what `/v2/models/M/config` says: the JSON form of Triton's ModelConfig."""

    def told(spec: TensorSpec) -> dict[str, Any]:
        kind = "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"
        return {"name": spec.name, "data_type": kind, "dims": list(spec.dims)}

    answer: dict[str, Any] = {
        "name": config.name,
        "platform": config.platform,
        "backend": config.platform,
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": config.max_batch_size,
        "input": [told(spec) for spec in config.inputs],
        "output": [told(spec) for spec in config.outputs],
        "instance_group": [
            {"name": f"{config.name}_{i}", "kind": group.kind, "count": group.count, "gpus": list(group.gpus)}
            for i, group in enumerate(config.instances)
        ],
    }
    if config.batching == "dynamic" and config.max_batch_size:
        policy = config.queue
        answer["dynamic_batching"] = {
            "preferred_batch_size": list(config.preferred_batch_sizes or (config.max_batch_size,)),
            "max_queue_delay_microseconds": config.max_queue_delay_us,
            "preserve_ordering": config.preserve_ordering,
            "priority_levels": config.priority_levels,
            "default_priority_level": config.default_priority_level,
            "default_queue_policy": {
                "timeout_action": policy.timeout_action,
                "default_timeout_microseconds": policy.default_timeout_us,
                "allow_timeout_override": policy.allow_timeout_override,
                "max_queue_size": policy.max_queue_size,
            },
        }
    return answer


def model_statistics(config: ModelConfig, own: Statistics) -> dict[str, Any]:
    """Return a model's entry in what `/v2/models/M/stats` says."""

    def told(tally: Tally) -> dict[str, int]:
        return {"count": tally.count, "ns": tally.ns}

    none = Tally(count=own.success.count)
    return {
        "name": config.name,
        "version": VERSION,
        "last_inference": own.last_ms,
        "inference_count": own.inferences,
        "execution_count": own.executions,
        "inference_stats": {
            "success": told(own.success),
            "fail": told(own.failure),
            "queue": told(own.queue),
            "compute_input": told(none),
            "compute_infer": told(own.compute),
            "compute_output": told(none),
            "cache_hit": told(Tally()),
            "cache_miss": told(Tally()),
        },
        "response_stats": {},
        "batch_stats": [
            {
                "batch_size": rows,
                "compute_input": told(Tally(count=batch.count)),
                "compute_infer": told(batch),
                "compute_output": told(Tally(count=batch.count)),
            }
            for rows, batch in sorted(own.batches.items())
        ],
        "memory_usage": [],
    }
