"""The manifests in deploy/kubernetes and the jobs of runs are valid, and fit together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import dagster as dg
import kubernetes_validate
import pytest
import yaml
from dagster_k8s import K8sRunLauncher
from dagster_k8s.job import construct_dagster_k8s_job
from kubernetes.client import ApiClient

from churn_platform.definitions import defs
from churn_platform.settings import PROJECT_ROOT, Settings, descriptions

FOLDER: Final = PROJECT_ROOT / "deploy/kubernetes"
VERSIONS: Final = ("1.32", "1.34")
KUBECONFIG: Final = """
apiVersion: v1
kind: Config
current-context: none
clusters: [{name: none, cluster: {server: "http://127.0.0.1:9"}}]
contexts: [{name: none, context: {cluster: none, user: none}}]
users: [{name: none, user: {}}]
"""
JOBS: Final = ("data_preparation_job", "training_job", "prediction_stream_job", "hourly_metrics_job", "maintenance_job")


def kustomization() -> dict[str, Any]:
    """Return kustomization.yaml."""
    found: dict[str, Any] = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    return found


def manifests() -> Iterator[dict[str, Any]]:
    """Yield each manifest that kustomize applies."""
    for name in kustomization()["resources"]:
        yield from yaml.safe_load_all((FOLDER / name).read_text())


def pod_specs() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and the pod of each deployment and job."""
    for each in manifests():
        if each["kind"] in ("Deployment", "Job"):
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def names(kind: str) -> set[str]:
    """Return the names of the manifests of a kind."""
    return {each["metadata"]["name"] for each in manifests() if each["kind"] == kind}


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[tuple[K8sRunLauncher, dg.DagsterInstance]]:
    """The launcher of deploy/kubernetes/dagster.yaml, outside a cluster, and its instance."""
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(KUBECONFIG)
    configuration = yaml.safe_load((FOLDER / "dagster.yaml").read_text())["run_launcher"]
    configuration["config"] |= {"load_incluster_config": False, "kubeconfig_file": str(kubeconfig)}
    with dg.DagsterInstance.ephemeral() as instance:
        launcher = K8sRunLauncher.from_config_value(None, configuration["config"])  # type: ignore[no-untyped-call]
        launcher.register_instance(instance)
        yield launcher, instance


def job_of(launcher: K8sRunLauncher, instance: dg.DagsterInstance, name: str) -> dict[str, Any]:
    """Return the manifest that the launcher creates for a run of a job."""
    job = defs.resolve_job_def(name)
    run = instance.create_run_for_job(job, tags=job.tags)
    context = launcher.get_container_context_for_run(run)
    made = construct_dagster_k8s_job(
        job_config=context.get_k8s_job_config(job_image="churn-platform", run_launcher=launcher),
        args=["dagster", "api", "execute_run", "{}"],
        job_name="run",
        pod_name="run",
        component="run_worker",
        user_defined_k8s_config=context.run_k8s_config,
    )
    found: dict[str, Any] = ApiClient().sanitize_for_serialization(made)
    return found


def require_restricted(pod: dict[str, Any]) -> None:
    """Fail if a pod does not meet the Pod Security Standard restricted, or may write to its root file system."""
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("version", VERSIONS)
def test_each_manifest_is_valid(version: str) -> None:
    for each in manifests():
        kubernetes_validate.validate(each, version, strict=True)


@pytest.mark.parametrize("name", JOBS)
def test_the_job_of_each_run_is_valid_and_restricted(
    launcher: tuple[K8sRunLauncher, dg.DagsterInstance], name: str
) -> None:
    job = job_of(*launcher, name)

    for version in VERSIONS:
        kubernetes_validate.validate(job, version, strict=True)
    pod = job["spec"]["template"]["spec"]
    require_restricted(pod)
    assert pod["serviceAccountName"] == "run"
    assert pod["automountServiceAccountToken"] is False


def test_a_job_has_the_size_that_its_tags_state(launcher: tuple[K8sRunLauncher, dg.DagsterInstance]) -> None:
    (container,) = job_of(*launcher, "training_job")["spec"]["template"]["spec"]["containers"]

    assert container["resources"]["requests"] == {"cpu": "2", "memory": "4Gi"}


def test_each_pod_is_restricted_and_only_launchers_get_a_token() -> None:
    for _, pod in pod_specs():
        require_restricted(pod)
        assert (pod.get("automountServiceAccountToken") is not False) == (pod["serviceAccountName"] == "launcher")


def test_each_server_has_probes() -> None:
    for name, pod in pod_specs():
        (container,) = pod["containers"]
        assert name == "prepare" or {"startupProbe", "livenessProbe"} <= set(container)


def test_runs_use_the_image_of_the_code_server() -> None:
    (image,) = kustomization()["images"]
    code = next(pod["containers"][0] for name, pod in pod_specs() if name == "code")

    assert {"name": "DAGSTER_CURRENT_IMAGE", "value": f"{image['newName']}:{image['newTag']}"} in code["env"]
    assert code["image"] == image["name"]


def test_what_a_pod_refers_to_exists() -> None:
    maps = names("ConfigMap") | {each["name"] for each in kustomization()["configMapGenerator"]}
    secrets = (FOLDER / "secrets.example.env").read_text()
    for _, pod in pod_specs():
        assert pod["serviceAccountName"] in names("ServiceAccount")
        for source in pod["containers"][0]["envFrom"]:
            if "configMapRef" in source:
                assert source["configMapRef"]["name"] in maps
            else:
                assert f"# {source['secretRef']['name']}, " in secrets
        for volume in pod["volumes"]:
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps
            if "secret" in volume:
                assert f"# {volume['secret']['secretName']}, " in secrets


def test_the_settings_are_settings_of_the_platform() -> None:
    (settings,) = (each["data"] for each in manifests() if each["kind"] == "ConfigMap")
    own = {name: value for name, value in settings.items() if not name.startswith("COMPUTE_LOGS_")}

    assert set(own) <= {each.variable for each in descriptions()}
    assert Settings.from_variables(own).platform.artifacts_root == "s3://my-bucket/churn"
