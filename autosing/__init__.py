"""AutoSing: train and run two-stage singing-voice generation.

Importing the package does nothing but define names and, before torch is loaded, say how its threads wait: no model is built, no device is
touched, nothing is downloaded.
"""

import os

# Threads that spin while they wait hold the core that the one they wait for needs: beside another job a song took ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
