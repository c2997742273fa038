"""Names of devices, and the threads of a process."""

import nets
import pytest
import torch

from ndtool.errors import ConfigError
from ndtool.training import devices
from ndtool.training.devices import MAX_DEFAULT_THREADS, find_device, thread_count, threads_of


def test_devices() -> None:
    assert find_device("cpu") == torch.device("cpu")
    assert find_device("auto").type in ("cpu", "cuda")
    for name in ("", "CPU", "cuda:", "cuda:-1", "cuda:1e1", "cuda:99999999", "mps"):
        with pytest.raises(ConfigError):
            find_device(name)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (3, 3), (64, MAX_DEFAULT_THREADS)])
def test_threads_are_few_unless_told(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr(devices, "usable_cores", lambda: cores)
    assert threads_of(nets.options(threads=0)) == threads
    assert threads_of(nets.options(threads=7)) == 7


def test_the_thread_count_is_put_back() -> None:
    before = torch.get_num_threads()
    with thread_count(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
