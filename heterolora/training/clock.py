"""How much time a run spends on each activity."""

import time

import torch


class Clock:
    """Adds up seconds by activity: `lap` books the time since the last lap to one activity."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = {"training": 0.0, "searching": 0.0, "evaluating": 0.0}
        self._device = device
        self._last = time.perf_counter()

    def restart(self) -> None:
        """Discard the time since the last lap."""
        self._last = time.perf_counter()

    def lap(self, activity: str) -> float:
        """Book the time since the last lap to `activity`, and return it in seconds."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        now = time.perf_counter()
        elapsed = now - self._last
        self.seconds[activity] += elapsed
        self._last = now
        return elapsed
