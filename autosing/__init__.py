"""AutoSing: train and run two-stage singing-voice generation.

Importing the package does nothing but define names: no model is built, no device is touched, nothing is downloaded.
"""

__version__ = "0.1.0"
