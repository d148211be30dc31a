"""A run that is killed and started again ends as one that never was."""

import functools
import itertools
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import children
import pytest
from conftest import composed

from heterolora import experiment
from heterolora.tracking.record import read_rows, read_run, run_directory


@pytest.fixture(autouse=True, scope="module")
def _server() -> Iterator[None]:
    with children.server():
        yield


def test_time(tiny, tmp_path):
    for i in range(4):
        t = time.time()
        c = children.finish(children.start([*tiny, f"seed={i}"], tmp_path / "log"))
        print(c, time.time() - t)
        print((tmp_path / "log").read_text())
