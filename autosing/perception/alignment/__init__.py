"""alignment: `base.py` is the Protocol, one file a backend."""
