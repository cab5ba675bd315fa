"""Recordings to train on, real, simulated or the user's own; split by session and never inside a trial."""

from ._connectomes import connectomes
from ._emg import emg_gestures
from ._folder import load_folder
from ._mamem import mamem_ssvep
from ._npz import load_npz
from ._radar import radar
from ._recordings import Recordings, Split
from ._windows import windows

__all__ = [
    "Recordings",
    "Split",
    "connectomes",
    "emg_gestures",
    "load_folder",
    "load_npz",
    "mamem_ssvep",
    "radar",
    "windows",
]
