"""The student against its slice: equal bit for bit, and a difference is found."""

from pathlib import Path

import nets
import pytest
import torch

from ndtool.errors import MismatchError
from ndtool.export.extract import prove_slice
from ndtool.training import checkpoint
from ndtool.training.checkpoint import Identity
from ndtool.training.loop import TrainState
from ndtool.training.seeds import Use, generator
from ndtool.training.supernet import Supernet


@pytest.fixture
def found(tmp_path: Path) -> checkpoint.Checkpoint:
    spec = nets.se_spec()
    net = Supernet(spec, rates=(3,), generator=generator(0, Use.INIT))
    identity = Identity(
        spec=spec,
        contract=nets.contract_of(spec),
        options={},
        data="0" * 64,
        rates=(3,),
        torch=str(torch.__version__),
        threads=1,
    )
    state = TrainState(net=net, ends=(1,), best_accuracy=0.0)
    (tmp_path / "x.pt").write_bytes(checkpoint.encode(state, identity))
    return checkpoint.load(tmp_path / "x.pt")


def test_extracted_student_is_its_slice(found: checkpoint.Checkpoint) -> None:
    prove_slice(found, found.supernet().student_tensors())


@pytest.mark.parametrize("ending", [".weight", ".bias", ".bn.running_mean", ".bn.running_var"])
def test_one_changed_number_is_found(found: checkpoint.Checkpoint, ending: str) -> None:
    tensors = found.supernet().student_tensors()
    name = next(n for n in tensors if n.endswith(ending))
    tensors[name].view(-1)[0] += 0.5
    with pytest.raises(MismatchError) as caught:
        prove_slice(found, tensors)
    assert caught.value.exit_code == 6
