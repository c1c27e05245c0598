"""The command line, one file per group of commands: parse, call, print."""

import getpass
import os

# Threads that wait must not spin: with other work on the machine, spinning makes k-means and training many times
# slower. OpenMP reads this when torch is loaded, so it is set before anything imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# torch asks for the user's name, and containers run as users without one.
try:
    getpass.getuser()
except (KeyError, OSError):
    os.environ["USER"] = str(os.getuid())
