"""`python -m world2act.processes.child PARENT MODULE ARGUMENT...`: run a module that ends when PARENT ends."""

import runpy
import sys

from world2act.processes.lifetime import end_with_parent

if __name__ == "__main__":
    end_with_parent(int(sys.argv[1]))
    module = sys.argv[2]
    del sys.argv[1:3]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
