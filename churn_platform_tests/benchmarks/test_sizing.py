"""What a rate of events needs and costs."""

from dataclasses import replace

import pytest

from benchmarks import sizing

SMALL = sizing.need(1_000, sizing.figures()["measured"])


@pytest.mark.parametrize(
    ("disk_gb", "cores", "brokers"),
    [(0, 0.1, 3), (3 * sizing.BROKER_DISK_GB, 0.1, 3), (3 * sizing.BROKER_DISK_GB + 1, 0.1, 4), (0, 10, 8)],
)
def test_brokers_have_the_disk_and_the_cores_for_all_replicas(disk_gb: float, cores: float, brokers: int) -> None:
    assert sizing.brokers(replace(SMALL, kafka_gb=disk_gb, cores=cores)) == brokers


@pytest.mark.parametrize(("memory_gb", "cores"), [(1, 2), (384, 48), (385, 64), (512, 64), (1024, 128)])
def test_postgres_is_the_smallest_instance_with_its_memory(memory_gb: float, cores: int) -> None:
    assert sizing.postgres_cores(replace(SMALL, postgres_memory_gb=memory_gb)) == cores


def test_a_total_is_the_sum_of_hours_and_gigabytes_at_their_prices() -> None:
    hour = sizing.HOURS_PER_MONTH
    prices = {
        name: {"value": value}
        for name, value in {
            "fargate_vcpu_hour": 1 / hour,
            "fargate_gb_hour": 0.0,
            "rds_vcpu_hour": 10 / hour,
            "rds_storage_gb_month": 0.5,
            "msk_broker_vcpu_hour": 100 / hour,
            "msk_storage_gb_month": 0.25,
            "s3_gb_month": 0.125,
            "load_balancer_hour": 1000 / hour,
        }.items()
    }
    needed = replace(SMALL, postgres_memory_gb=100, kafka_gb=400, postgres_gb=100, archive_gb=80)

    found = sizing.cost(needed, prices)

    vcpus, _ = sizing.services()
    assert found.tasks == pytest.approx(vcpus + 2)  # a streaming run and its standby
    assert (found.postgres, found.kafka, found.storage) == pytest.approx((160, 600, 160))
    assert found.total == pytest.approx(found.tasks + 160 + 600 + 160 + 1000)
