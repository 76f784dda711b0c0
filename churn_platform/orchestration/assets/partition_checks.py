"""Checks of partitioned assets: each result is about one partition, and the asset's page shows the latest partition's.

Dagster's page shows the result that was stored last, whatever its partition. So a run that evaluates an older partition
stores the latest partition's result again, after its own.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES

Target = AssetCheckEvaluationTargetMaterializationData


def partition_check(name: str, asset: str, partitions: dg.PartitionsDefinition, description: str) -> dg.AssetCheckSpec:
    """Return the spec of a check that is evaluated per partition. The description states what it expects."""
    with warnings.catch_warnings():  # partitioned checks are in preview, and the version of Dagster is pinned
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(name, asset=asset, partitions_def=partitions, description=description)


def evaluations(
    context: dg.AssetExecutionContext, results: Mapping[str, Sequence[dg.AssetCheckResult]], *, latest: str | None
) -> Iterator[dg.Output[None] | dg.AssetCheckEvaluation]:
    """Yield the results of all checks for each partition of a run. Yield them after the MaterializeResult.

    Args:
        context: context of the run's step.
        results: results by partition key, in the order of the partitions.
        latest: the partition whose results the asset's page should show, evaluated by this run or an earlier one. None
            means the last partition of `results`.
    """
    for key in sorted(context.selected_asset_check_keys):
        yield dg.Output(None, output_name=f"{key.asset_key.to_python_identifier()}_{key.name}".replace(".", "_"))
    targets = _targets(context, list(results))
    for partition in sorted(results, key=lambda key: key == latest):
        for result in results[partition]:
            yield dg.AssetCheckEvaluation(
                asset_key=context.asset_key,
                check_name=str(result.check_name),
                passed=result.passed,
                severity=result.severity,
                description=result.description,
                metadata=result.metadata,
                partition=partition,
                target_materialization_data=targets.get(partition),
            )
    if latest is not None and latest not in results:
        names = {str(result.check_name) for each in results.values() for result in each}
        yield from _stored(context, sorted(names), latest)


def _targets(context: dg.AssetExecutionContext, partitions: Sequence[str]) -> dict[str, Target]:
    """Return the materialization that this run has just made of each partition."""
    records = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=context.asset_key, asset_partitions=partitions), limit=len(partitions)
    ).records
    return {
        str(record.partition_key): Target(
            storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
        )
        for record in records
    }


def _stored(
    context: dg.AssetExecutionContext, names: Sequence[str], partition: str
) -> Iterator[dg.AssetCheckEvaluation]:
    """Yield the latest stored result of each check for a partition."""
    for name in names:
        found = context.instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(context.asset_key, name),
            limit=1,
            status=set(COMPLETED_ASSET_CHECK_EXECUTION_RECORD_STATUSES),
            partition_filter=PartitionKeyFilter(key=partition),
        )
        if found and found[0].evaluation is not None:
            yield found[0].evaluation
