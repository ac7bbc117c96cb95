"""A fitted UMEML as a folder: config.json and model.safetensors. Nothing is unpickled."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter
from safetensors.torch import save_file

from wsikit.errors import ModelError
from wsikit.models.config import CONFIG_FILE, WEIGHTS_FILE
from wsikit.models.model_folder import write_folder
from wsikit.models.umeml.config import TaskConfig, TokenConfig, UmemlConfig
from wsikit.models.umeml.network import UMEML
from wsikit.store.atomic import write_json
from wsikit.tensor_files import check_finite, no_larger_than, read_safetensors
from wsikit.training.cohort.scaling import ColumnScaler, Components
from wsikit.training.umeml.curves import Baseline, CurveShape
from wsikit.training.umeml.learner import FittedUmeml, Member
from wsikit.training.umeml.linear_start import LinearStart
from wsikit.training.umeml.loop import Epoch
from wsikit.training.umeml.settings import UmemlSettings
from wsikit.training.umeml.tables import DirectTable, Tables, TokenTable
from wsikit.training.umeml.targets import Tasks

FORMAT, ARCHITECTURE = 1, "umeml-cohort"
Arrays = dict[str, torch.Tensor]
_TOKENS: TypeAdapter[TokenConfig] = TypeAdapter(TokenConfig)


def save_umeml(fitted: FittedUmeml, folder: str | Path) -> Path:
    """Write a fitted UMEML as a folder, in one step; the folder must not exist yet.

    Raises
    ------
    ModelError
        If it exists: nothing is overwritten.
    """
    arrays: Arrays = {}
    record: dict[str, Any] = {
        "format": FORMAT,
        "architecture": ARCHITECTURE,
        "network": fitted.members[0].network.config.model_dump(mode="json"),
        "settings": fitted.settings.model_dump(mode="json"),
        "width": fitted.width,
        "tasks": _tasks_record(fitted.tasks, arrays),
        "tokens": {
            name: {
                "table": one.table,
                "config": one.config.model_dump(mode="json"),
                "names": one.names,
                "members": one.members,
                "columns": one.columns,
                "scaler": _pack(arrays, f"tokens.{name}", one.fitted),
            }
            for name, one in fitted.tables.tokens.items()
        },
        "direct": [
            {
                "table": one.table,
                "owner": one.owner,
                "names": one.names,
                "divisor": one.divisor,
                "scaler": _pack(arrays, f"direct.{number}", one.fitted),
            }
            for number, one in enumerate(fitted.tables.direct)
        ],
        "members": [
            {
                "start": None if member.start is None else asdict(member.start),
                "epochs": [[_number(x) for x in asdict(epoch).values()] for epoch in member.epochs],
                "kept": member.kept,
            }
            for member in fitted.members
        ],
        "baseline": fitted.baseline is not None,
    }
    if fitted.baseline is not None:
        arrays["baseline.times"], arrays["baseline.hazard"] = map(
            torch.from_numpy, (fitted.baseline.times, fitted.baseline.hazard)
        )
    for number, member in enumerate(fitted.members):
        for name, value in member.network.state_dict().items():
            arrays[f"member.{number}.{name}"] = value.detach().cpu().contiguous()

    def write(staging: Path) -> None:
        write_json(staging / CONFIG_FILE, record)
        save_file(arrays, str(staging / WEIGHTS_FILE))

    return write_folder(folder, write)


def load_umeml(folder: str | Path, *, device: str = "cpu") -> FittedUmeml:
    """A fitted UMEML from its folder.

    Raises
    ------
    ModelError
        If files are missing, damaged, or of another format.
    """
    folder, place = Path(folder), torch.device(device)
    path, weights = folder / CONFIG_FILE, folder / WEIGHTS_FILE
    if missing := [one.name for one in (path, weights) if not one.is_file()]:
        raise ModelError(f"{folder}: {', '.join(missing)} missing; copy the model's folder again.")
    arrays = read_safetensors(weights)
    check_finite(arrays, weights)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or (record.get("architecture"), record.get("format")) != (ARCHITECTURE, FORMAT):
            raise ModelError(
                f"{path}: not of architecture {ARCHITECTURE!r}, format {FORMAT}. Give a folder that the training of a "
                "cohort wrote."
            )
        used = _Used(arrays)
        with no_larger_than(weights):
            fitted = _restore(record, used, place)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{folder}: not a whole UMEML model ({type(error).__name__}: {reason}); copy the model's folder again."
        ) from error
    if unknown := sorted(arrays.keys() - used.names):
        raise ModelError(
            f"{weights}: {len(unknown)} tensors that {CONFIG_FILE} does not name, such as {unknown[0]}; copy the "
            "model's folder again."
        )
    return fitted


class _Used(dict[str, torch.Tensor]):
    """Arrays, and the names of those that were asked for."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__(arrays)
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> torch.Tensor:
        self.names.add(name)
        return super().__getitem__(name)


def _restore(record: dict[str, Any], arrays: _Used, device: torch.device) -> FittedUmeml:
    config = UmemlConfig.model_validate(record["network"])
    tokens = {
        name: TokenTable(
            one["table"],
            _unpack(arrays, f"tokens.{name}", one["scaler"]),
            _TOKENS.validate_python(one["config"]),
            tuple(one["names"]),
            tuple(tuple(group) for group in one["members"]),
            tuple(one["columns"]),
        )
        for name, one in record["tokens"].items()
    }
    direct = tuple(
        DirectTable(
            one["table"],
            one["owner"],
            _unpack(arrays, f"direct.{number}", one["scaler"]),
            tuple(one["names"]),
            float(one["divisor"]),
        )
        for number, one in enumerate(record["direct"])
    )
    members = []
    for number, one in enumerate(record["members"]):
        network = UMEML(config).to(device)
        prefix = f"member.{number}."
        network.load_state_dict({n[len(prefix) :]: arrays[n] for n in arrays if n.startswith(prefix)})
        epochs = tuple(
            Epoch(int(e[0]), *(float("nan") if x is None else float(x) for x in e[1:])) for e in one["epochs"]
        )
        start = None if one["start"] is None else LinearStart(**one["start"])
        members.append(Member(network.eval(), start, epochs, int(one["kept"])))
    baseline = None
    if record["baseline"]:
        baseline = Baseline(arrays["baseline.times"].numpy(), arrays["baseline.hazard"].numpy())
    return FittedUmeml(
        tuple(members),
        Tables(tokens, direct),
        _tasks(record["tasks"], arrays),
        UmemlSettings.model_validate(record["settings"]),
        baseline,
        record["width"],
        device,
    )


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _tasks_record(tasks: Tasks, arrays: Arrays) -> dict[str, Any]:
    arrays["tasks.cuts"] = torch.from_numpy(np.ascontiguousarray(tasks.cuts))
    if tasks.shape is not None:
        for name in ("times", "interval", "share"):
            arrays[f"tasks.shape.{name}"] = torch.from_numpy(getattr(tasks.shape, name))
    if tasks.class_weights is not None:
        arrays["tasks.class_weights"] = tasks.class_weights
    return {
        "configs": [task.model_dump(mode="json") for task in tasks.configs],
        "weights": dict(tasks.weights),
        "classes": tasks.classes,
        "uncensored_share": tasks.uncensored_share,
    }


def _tasks(record: dict[str, Any], arrays: Arrays) -> Tasks:
    return Tasks(
        tuple(TaskConfig.model_validate(one) for one in record["configs"]),
        record["weights"],
        arrays["tasks.cuts"].numpy(),
        _shape(arrays),
        arrays["tasks.class_weights"] if "tasks.class_weights" in arrays else None,  # noqa: SIM401 (marks it as used)
        tuple(record["classes"]),
        float(record["uncensored_share"]),
    )


def _shape(arrays: Arrays) -> CurveShape | None:
    if "tasks.shape.times" not in arrays:
        return None
    return CurveShape(*(arrays[f"tasks.shape.{name}"].numpy() for name in ("times", "interval", "share")))


def _pack(arrays: Arrays, name: str, fitted: ColumnScaler | Components) -> str:
    scaler = fitted.scaler if isinstance(fitted, Components) else fitted
    for field in ("kept", "median", "mean", "std"):
        arrays[f"{name}.{field}"] = torch.from_numpy(np.ascontiguousarray(getattr(scaler, field)))
    if isinstance(fitted, Components):
        arrays[f"{name}.axes"] = torch.from_numpy(np.ascontiguousarray(fitted.axes))
        return "components"
    return "columns"


def _unpack(arrays: Arrays, name: str, kind: str) -> ColumnScaler | Components:
    def array(field: str) -> npt.NDArray[Any]:
        found: npt.NDArray[Any] = arrays[f"{name}.{field}"].numpy()
        return found

    scaler = ColumnScaler(array("kept"), array("median"), array("mean"), array("std"))
    rows = len(scaler.kept)
    if (
        scaler.kept.ndim != 1
        or scaler.kept.dtype.kind != "i"
        or {scaler.median.shape, scaler.mean.shape, scaler.std.shape} != {(rows,)}
    ):
        raise ValueError(f"{name}: median, mean and std must have one number for each of the {rows} columns kept")
    if kind != "components":
        return scaler
    axes = array("axes")
    if axes.ndim != 2 or len(axes) != rows:
        raise ValueError(f"{name}.axes is {axes.shape}, expected ({rows}, …)")
    return Components(scaler, axes)
