"""The recipes of docs/cluster.md: the job script for SLURM, and the manifest for Kubernetes."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def recipe() -> Any:
    path = EXAMPLES / "slurm" / "run_on_slurm.py"
    spec = importlib.util.spec_from_file_location("run_on_slurm", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def job_script(recipe: Any, *options: str) -> list[str]:
    jobqueue = pytest.importorskip("dask_jobqueue")
    given, run = recipe.parse([*options, "--", "slides", "-o", "out"])
    assert run == ["slides", "-o", "out"]
    with jobqueue.SLURMCluster(**recipe.cluster_options(given)) as cluster:
        lines: list[str] = cluster.job_script().splitlines()
    return lines


def options_of(command: list[str]) -> dict[str, str]:
    """Options of a command with one value each."""
    return {name: value for name, value in zip(command, command[1:], strict=False) if name.startswith("--")}


def test_a_slurm_job_has_the_cores_memory_and_time_of_its_workers_and_replaces_them_before_its_end(recipe: Any) -> None:
    lines = job_script(recipe, "--partition", "cpu", "--workers", "4", "--memory-gb", "3", "--hours", "2")
    assert {"#SBATCH -p cpu", "#SBATCH --cpus-per-task=4", "#SBATCH --mem=12G", "#SBATCH -t 02:00:00"} <= set(lines)
    assert "#SBATCH --requeue" in lines
    worker = options_of(shlex.split(lines[-1]))
    assert (worker["--nworkers"], worker["--nthreads"]) == ("4", "1")
    assert worker["--memory-limit"].endswith("GiB")
    assert float(worker["--memory-limit"][:-3]) * 2**30 <= 3e9
    assert worker["--lifetime"] == "110m"


def test_a_slurm_job_with_a_gpu_is_one_worker_that_declares_it(recipe: Any) -> None:
    lines = job_script(recipe, "--gpu", "--partition", "gpu")
    assert "#SBATCH --gres=gpu:1" in lines
    worker = options_of(shlex.split(lines[-1]))
    assert worker["--resources"] == "GPU=1"
    assert worker["--nthreads"] == "3"
    assert "--nworkers" not in worker or worker["--nworkers"] == "1"


def kubernetes() -> dict[str, Any]:
    """Pods of the manifest, by name of their container; the claim and the service."""
    documents = list(yaml.safe_load_all((EXAMPLES / "kubernetes" / "cluster.yaml").read_text()))
    found: dict[str, Any] = {}
    for document in documents:
        template = document["spec"].get("template")
        if template is None:
            found[document["kind"]] = document
            continue
        (container,) = template["spec"]["containers"]
        found[container["name"]] = container | {"spec": document["spec"], "pod": template}
    return found


def test_workers_and_driver_of_kubernetes_share_image_volume_and_the_schedulers_address() -> None:
    found = kubernetes()
    assert len({found[name]["image"] for name in ("scheduler", "worker", "driver")}) == 1
    mounts = [found[name]["volumeMounts"] for name in ("worker", "driver")]
    assert mounts[0] == mounts[1]
    for name in ("worker", "driver"):
        (volume,) = found[name]["pod"]["spec"]["volumes"]
        claim = found["PersistentVolumeClaim"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    service = found["Service"]
    address = f"tcp://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    assert address in found["worker"]["command"]
    assert options_of(found["driver"]["command"])["--scheduler"] == address
    assert service["spec"]["selector"].items() <= found["scheduler"]["pod"]["metadata"]["labels"].items()
    for name in ("scheduler", "worker"):
        labels, wanted = found[name]["pod"]["metadata"]["labels"], found[name]["spec"]["selector"]["matchLabels"]
        assert labels == wanted


def test_the_commands_of_kubernetes_are_ones_that_dask_and_wsikit_take() -> None:
    import click
    from distributed.cli.dask_scheduler import main as scheduler
    from distributed.cli.dask_worker import main as worker

    from wsikit.cli.run import command as run

    found = kubernetes()
    for name, program, skip in (("scheduler", scheduler, 2), ("worker", worker, 2)):
        program.make_context(name, list(found[name]["command"][skip:]), resilient_parsing=False)
    known = {option for parameter in run.params for option in parameter.opts if isinstance(parameter, click.Option)}
    given = found["driver"]["command"]
    assert given[:2] == ["wsikit", "run"]
    assert {one for one in given if one.startswith("-")} <= known


def test_a_worker_of_kubernetes_is_ended_by_its_nanny_before_its_pod_is() -> None:
    worker = kubernetes()["worker"]
    limit = options_of(worker["command"])["--memory-limit"]
    assert limit == "4GiB"
    assert worker["resources"]["limits"]["memory"] == "4500Mi"
    assert 4 * 1024 < 4500
