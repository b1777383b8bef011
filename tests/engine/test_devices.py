"""Where a model runs, on machines without a GPU: `cuda` is refused with torch's reason, `auto` takes the CPU."""

import logging

import pytest
import torch

from guardproxy.engine.load import choose_device
from guardproxy.errors import ConfigError

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA device on this machine")

# torch's own words: a build for CPUs, and one for CUDA where no driver is.
REASON = "not compiled with CUDA" if torch.version.cuda is None else "no NVIDIA driver"


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_cuda_is_refused_with_the_reason(device: str) -> None:
    """One line has the device, torch's version, and whether the build, the driver or the container lacks CUDA."""
    with pytest.raises(ConfigError) as refused:
        choose_device(device)
    text = str(refused.value)
    assert text.startswith(f"device '{device}': torch {torch.__version__} finds 0 CUDA devices on this machine: ")
    assert REASON in text
    assert "\n" not in text


def test_auto_says_that_a_torch_for_gpus_finds_none(caplog: pytest.LogCaptureFixture) -> None:
    """A torch with CUDA was installed for a GPU, so the log has the reason; one for CPUs finds what it expects."""
    with caplog.at_level(logging.INFO, "guardproxy.engine"):
        assert choose_device("auto") == torch.device("cpu")
    reasons = [record.__dict__["reason"] for record in caplog.records]
    assert len(reasons) == int(torch.version.cuda is not None)
    assert all(REASON in reason for reason in reasons)
