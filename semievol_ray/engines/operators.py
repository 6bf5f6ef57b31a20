"""The operators that DeepSpeed compiles at first use, made once a machine; no ray in here.

Invariant: a compiler that was killed keeps nobody waiting after it.
"""

import fcntl
import os
from pathlib import Path


def load_cpu_operators(cache: Path) -> None:
    """Load what deepspeed.comm needs on a CPU into this process, from `cache`/torch_extensions; compiled when missing.

    torch guards a build with a file that a killed builder leaves behind, and everyone after waits for it without end.
    The lock around it here ends with its holder, so a file found under it belongs to nobody.
    """
    folder = cache / "torch_extensions"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TORCH_EXTENSIONS_DIR"] = str(folder)
    with (folder / ".lock").open("w") as mine:
        fcntl.flock(mine, fcntl.LOCK_EX)
        for left in folder.glob("*/lock"):
            left.unlink()
        import deepspeed
        from deepspeed.accelerator import get_accelerator

        builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
        if builder is not None and deepspeed.ops.__compatible_ops__.get(builder.NAME, False):
            builder.load(verbose=False)
