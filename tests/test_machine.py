"""What a machine tells of itself."""

import platform
from importlib import metadata
from pathlib import Path

import pytest

from semievol_ray.machine import Gpu, look, read_gpus

TWO_GPUS = """<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
  <driver_version>570.86.10</driver_version>
  <cuda_version>12.8</cuda_version>
  <attached_gpus>2</attached_gpus>
  <gpu id="00000000:1B:00.0">
    <product_name>NVIDIA H200</product_name>
    <fb_memory_usage><total>143771 MiB</total><used>0 MiB</used></fb_memory_usage>
  </gpu>
  <gpu id="00000000:43:00.0">
    <product_name>NVIDIA H200</product_name>
    <fb_memory_usage><total>N/A</total></fb_memory_usage>
  </gpu>
</nvidia_smi_log>
"""


def test_gpus_are_read_from_what_nvidia_smi_prints() -> None:
    gpus = (Gpu("NVIDIA H200", 143771 * 2**20), Gpu("NVIDIA H200", 0))

    assert read_gpus(TWO_GPUS) == (gpus, "570.86.10", "12.8")


@pytest.mark.parametrize("text", ["", "NVIDIA-SMI has failed because it couldn't communicate with the driver"])
def test_nvidia_smi_that_fails_means_no_gpu(text: str) -> None:
    assert read_gpus(text) == ((), None, None)


def test_look_tells_versions_limits_and_the_disks_asked_for(tmp_path: Path) -> None:
    found = look(str(tmp_path))

    assert found.versions["python"] == platform.python_version()
    assert found.versions["ray"] == metadata.version("ray")
    assert found.disks[-1].path == str(tmp_path)
    assert 0 < found.free_memory_bytes <= found.memory_bytes
    assert [disk.path for disk in look(str(tmp_path / "missing")).disks] == [found.disks[0].path]
