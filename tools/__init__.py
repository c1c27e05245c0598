"""The command line, one file per group of commands: parse, call, print."""

import os

# Threads that wait must not spin: with other work on the machine, spinning makes k-means and training many times
# slower. OpenMP reads this when torch is loaded, so it is set before anything imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
