"""`wsikit run` on a SLURM cluster: workers are jobs that dask-jobqueue submits; this process is the driver.

Usage: python run_on_slurm.py --jobs 100 --partition cpu -- SLIDE|DIR… -o OUT [options of wsikit run]

Needs `pip install "wsikit[cluster]"` in an environment that all nodes see. Start it on a login node, or as a small job
of its own; it needs one core and 1 GB. The slides, OUT and the models are on a file system that all nodes share.
--print shows the script of a job and starts nothing. If this process or the scheduler is ended, give the same command
again: finished slides are kept.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any


def cluster_options(given: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `dask_jobqueue.SLURMCluster`: a job is one node's share of workers, of one thread each.

    With GPUs a job is one worker that holds one GPU, and three threads, so that slides are tiled while the model works.
    """
    extra = ["--requeue"]
    # workers end before SLURM ends them, each at another time, and are replaced; slides in work go on elsewhere
    minutes = given.hours * 60
    worker = ["--lifetime", f"{minutes - 10}m", "--lifetime-stagger", "8m"]
    if given.gpu:
        extra.append("--gres=gpu:1")
        worker += ["--resources", "GPU=1"]
    return {
        "queue": given.partition,
        "account": given.account,
        "cores": 3 if given.gpu else given.workers,
        "processes": 1 if given.gpu else given.workers,
        "memory": f"{given.memory_gb * (1 if given.gpu else given.workers)}GB",
        "walltime": f"{given.hours:02d}:00:00",
        "job_extra_directives": extra,
        "job_script_prologue": ["export OMP_NUM_THREADS=1"],
        "worker_extra_args": worker,
        "scheduler_options": {"dashboard": False},
    }


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this script, and those of `wsikit run`, which follow `--`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--partition")
    parser.add_argument("--account")
    parser.add_argument("--workers", type=int, default=8, help="workers per job, each with one core")
    parser.add_argument("--memory-gb", type=int, default=4, help="memory of a worker")
    parser.add_argument("--hours", type=int, default=12, help="time of a job")
    parser.add_argument("--gpu", action="store_true", help="a job is one worker with one GPU")
    parser.add_argument("--print", action="store_true", dest="show", help="show the script of a job")
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    return parser.parse_args(arguments[:cut]), arguments[cut + 1 :]


def main(arguments: list[str]) -> None:
    from dask_jobqueue import SLURMCluster
    from distributed import Client

    given, run = parse(arguments)
    with SLURMCluster(**cluster_options(given)) as cluster:
        if given.show:
            print(cluster.job_script())
            return
        cluster.adapt(minimum_jobs=given.jobs, maximum_jobs=given.jobs)  # jobs that end are replaced
        with Client(cluster, set_as_default=False) as client:
            client.wait_for_workers(1)
        from wsikit.cli.main import main as wsikit

        wsikit(["run", *run, "--scheduler", cluster.scheduler_address])


if __name__ == "__main__":
    main(sys.argv[1:])
