"""Ctrl-C while llama.cpp tells something is not lost."""

import ctypes
import os
import signal
import sys
import threading
import time

import pytest

from ppedge.llm.binding.ggml import log


@pytest.fixture
def interruptible():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def busy_in_callbacks(seconds: float) -> None:
    """Sort in C by a rule in Python, over and over: nearly all Python code is in callbacks."""
    rule = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(lambda _, __: 0)
    numbers = (ctypes.c_int * 200_000)()
    libc = ctypes.CDLL(None)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        libc.qsort(numbers, len(numbers), ctypes.sizeof(ctypes.c_int), rule)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are another matter there")
def test_an_interrupt_within_a_callback_is_raised_behind_it(interruptible, capfd):
    hook = sys.unraisablehook
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt), log.complaints():
        busy_in_callbacks(0.2)
    assert sys.unraisablehook is hook
    assert "ignored" not in capfd.readouterr().err


def test_what_else_goes_wrong_in_a_callback_is_told_as_ever(interruptible):
    told = []
    before, sys.unraisablehook = sys.unraisablehook, told.append
    try:
        with log.complaints():
            ctypes.CFUNCTYPE(None)(lambda: {}["x"])()
    finally:
        sys.unraisablehook = before
    assert [type(each.exc_value) for each in told] == [KeyError]


def test_on_another_thread_nothing_is_done(interruptible):
    hooks = []

    def work():
        with log.complaints():
            hooks.append(sys.unraisablehook)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert hooks == [sys.unraisablehook]
