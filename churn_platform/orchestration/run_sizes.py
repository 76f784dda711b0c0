"""The size of a run by its job, as tags that the launchers for ECS and Kubernetes read. Other launchers ignore them.

A tag of the run takes precedence: launch a training of ten million customers with a larger `ecs/memory`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class RunSize:
    """CPU and memory of a run's task or pod.

    Attributes:
        cpus: virtual CPUs. Fargate offers 1, 2, 4 and more.
        memory_gib: memory in GiB. For each CPU, Fargate offers 2 to 8 GiB.
    """

    cpus: int
    memory_gib: int

    @property
    def tags(self) -> Mapping[str, str]:
        """The tags of a job."""
        resources = {"cpu": str(self.cpus), "memory": f"{self.memory_gib}Gi"}
        return {
            "ecs/cpu": str(self.cpus * 1024),
            "ecs/memory": str(self.memory_gib * 1024),
            # A pod that uses more memory than it requested may be evicted, so both are equal. CPU is shared.
            "dagster-k8s/config": json.dumps(
                {"container_config": {"resources": {"requests": resources, "limits": {"memory": resources["memory"]}}}}
            ),
        }


DATA: Final = RunSize(cpus=1, memory_gib=2)
"""Data preparation, metrics and monitoring: at most a window or a million customers in memory."""

TRAINING: Final = RunSize(cpus=2, memory_gib=4)
"""Training: XGBoost uses every CPU."""

STREAMING: Final = RunSize(cpus=1, memory_gib=2)
"""A streaming run: scoring and commits use one CPU, and a commit at most 30,000 events."""
