"""`python -m world2act.training.launch MODULE`: run a training stage on `base.ranks` processes by torchrun.

More than one node: start the same module with `deepspeed --hostfile` or `torchrun --nnodes` instead; the loop
reads only the environment that they set.
"""

from __future__ import annotations

import logging
import os
import sys

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import get_args_parser, run

from world2act.errors import World2ActError
from world2act.params import load_params


def main(module: str) -> None:
    try:
        ranks = load_params().base.ranks
    except World2ActError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // ranks)))
    # DeepSpeed still calls torch's collectives by their old names, at every step
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning:torch.distributed.c10d_logger")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("TORCHELASTIC_ERROR_FILE", os.devnull)
    # a rank says itself what went wrong; how its process ended is said below, where it could not
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    options = ["--standalone", "--nproc-per-node", str(ranks), "--module", module]
    try:
        run(get_args_parser().parse_args(options))
    except ChildFailedError as error:
        code = next(iter(error.failures.values())).exitcode
        if code != 2:
            print(
                f"{module}: a rank ended with exit status {code}; rerun to go on from its last checkpoint",
                file=sys.stderr,
            )
        sys.exit(code if code > 0 else 1)


if __name__ == "__main__":
    main(sys.argv[1])
