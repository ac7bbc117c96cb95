"""A torch module exported to ONNX, run by ONNX Runtime on a CPU. Needs the extra `onnx`."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from wsikit.encoders.engine_request import has_onnx
from wsikit.encoders.torch_encoder import TorchEncoder
from wsikit.encoders.torch_engine import TorchEngine
from wsikit.errors import ModelError, RequestError


class OnnxEngine(TorchEngine):
    """The module in ONNX Runtime, float32, one thread per batch.

    Raises
    ------
    RequestError
        ONNX Runtime is not installed, or the encoder is not on a CPU.
    ModelError
        The module cannot be exported.
    """

    name = "onnx"

    def __init__(self, encoder: TorchEncoder, *, batch: int | None = None) -> None:
        if not has_onnx():
            raise RequestError("engine 'onnx': needs ONNX Runtime; pip install onnxruntime onnx onnxscript.")
        super().__init__(encoder, precision="float32", batch=batch)
        if self.torch_device.type != "cpu":
            raise RequestError("engine 'onnx': runs on the CPU; give --device cpu, or --engine torch.")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        with tempfile.TemporaryDirectory(prefix="wsikit-onnx-") as folder:
            path = Path(folder) / "encoder.onnx"
            self._export(path)
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def _export(self, path: Path) -> None:
        side = self.transform.crop
        try:
            with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
                warnings.simplefilter("ignore")
                torch.onnx.export(
                    self._module,
                    (torch.zeros(2, 3, side, side),),
                    path,
                    dynamo=True,
                    dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
                    verbose=False,
                )
        except Exception as error:  # exporters fail in many ways
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(
                f"encoder {self.encoder.info.name}: cannot be exported to ONNX ({reason}). Use --engine torch."
            ) from error

    def _forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(self._session.run(None, {self._input: x.contiguous().numpy()})[0])
