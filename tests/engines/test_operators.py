"""DeepSpeed's compiled operators: a killed build keeps nobody waiting."""

import os
import subprocess
import sys
from pathlib import Path

from semievol_ray import folders

LOAD = "import sys; from pathlib import Path; from semievol_ray.engines import operators as o; "


def test_lock_that_a_killed_compiler_left_is_removed_and_the_operator_is_loaded() -> None:
    cache = Path(folders.cache_folder())  # the user's own, for a compiler takes half a minute
    left = cache / "torch_extensions" / "deepspeed_shm_comm" / "lock"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    command = [sys.executable, "-c", LOAD + "o.load_cpu_operators(Path(sys.argv[1]))", str(cache)]
    env = os.environ | {"DS_ACCELERATOR": "cpu"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [path.name for path in left.parent.glob("*.so")] == ["deepspeed_shm_comm.so"]
    assert not left.exists()
