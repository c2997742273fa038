"""What torch's exporters write is read, with the operations one would write by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from float_eval import evaluate
from graph_checks import kinds
from onnx_models import nhwc
from tolerances import LOGITS_ABS
from torch import nn

from ndtool.export.graph.from_onnx import read_onnx


class Plain(nn.Module):
    """Convolutions with symmetric padding, BN, ReLU6, pooling, flatten, dropout, two linears."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU6(),
            nn.ZeroPad2d((0, 1, 0, 1)),
            nn.Conv2d(8, 8, 3, groups=8),
            nn.BatchNorm2d(8),
            nn.Hardswish(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Linear(8 * 3 * 3, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 5)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.classifier(self.features(x).flatten(1))
        return out


class Gated(nn.Module):
    """Residual, squeeze-excite, mean, view with x.size(0)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.excite = nn.Conv2d(4, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.bn(self.stem(x)))
        gate = self.squeeze(x.mean((2, 3), keepdim=True)).relu()
        x = x + x * nn.functional.hardsigmoid(self.excite(gate))
        x = nn.functional.adaptive_avg_pool2d(x, 1)
        out: torch.Tensor = self.head(x.view(x.size(0), -1))
        return out


@pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Constant folding - Only steps=1:UserWarning")
@pytest.mark.parametrize("opset", [11, 17, 20])
@pytest.mark.parametrize("fold_bn", [True, False])
@pytest.mark.parametrize("kind", [Plain, Gated])
def test_torch_exports(kind: type[nn.Module], *, fold_bn: bool, opset: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_mean, module.running_var, module.weight):
                assert values is not None
                nn.init.uniform_(values, 0.5, 1.5)
    x = torch.randn(1, 3, 16, 16)
    path = tmp_path / "model.onnx"
    mode = torch.onnx.TrainingMode.EVAL if fold_bn else torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        network,
        (x,),
        path,
        dynamo=False,
        opset_version=opset,
        training=mode,
        do_constant_folding=fold_bn,
        input_names=["input"],
        output_names=["logits"],
        dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
    )
    graph = read_onnx(path.read_bytes(), where=path.name)
    with torch.no_grad():
        expected = network(x).numpy()
    found = evaluate(graph, {"input": nhwc(x.numpy())})[graph.outputs[0]]
    np.testing.assert_allclose(found, expected, rtol=0, atol=LOGITS_ABS)
    wanted = {
        Plain: [
            "Conv",
            "Conv",
            "hard_swish",
            "Pool",
            "Reshape",
            "FullyConnected",
            "FullyConnected",
        ],
        Gated: ["Conv", "Mean", "Conv", "Conv", "mul", "add", "Mean", "FullyConnected"],
    }
    assert kinds(graph) == wanted[kind]
