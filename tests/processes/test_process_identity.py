"""Who is certainly dead, and who is only not known."""

import dataclasses
import multiprocessing
import os
import subprocess
import sys

import psutil
import pytest

from vad_lib import processes
from vad_lib.processes import ProcessId, is_dead, me


@pytest.fixture
def sleeper():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait(10)


def test_a_living_process_is_not_dead(sleeper):
    identity = ProcessId.of(sleeper.pid)
    assert not identity.is_dead()
    assert not is_dead(str(identity))
    assert not is_dead(str(me()))


def test_a_killed_process_is_dead_while_it_is_a_zombie_and_after(sleeper):
    text = str(ProcessId.of(sleeper.pid))
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(sleeper.pid).status() == psutil.STATUS_ZOMBIE
    assert is_dead(text)
    sleeper.wait(10)
    assert is_dead(text)
    assert ProcessId.of(sleeper.pid) is None


def test_another_process_under_the_same_id_is_not_taken_for_the_one_that_died(sleeper):
    identity = ProcessId.of(sleeper.pid)
    before = dataclasses.replace(identity, started=identity.started - 2.0)
    assert before.is_dead()


@pytest.mark.parametrize("step", [-86400, -0.9, 0.7, 3600])
def test_a_clock_that_is_set_changes_no_identity(sleeper, monkeypatch, step):
    identity = ProcessId.of(sleeper.pid)
    boot = psutil.boot_time()
    start = psutil.Process(sleeper.pid).create_time()
    monkeypatch.setattr(psutil, "boot_time", lambda: boot + step)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: start + step)
    assert not identity.is_dead()
    assert ProcessId.of(sleeper.pid) == identity


def test_of_a_process_elsewhere_nothing_is_known():
    elsewhere = dataclasses.replace(me(), machine="0" * 16, pid=2**22)
    assert not elsewhere.is_dead()
    assert dataclasses.replace(elsewhere, machine=me().machine).is_dead()


def test_a_machine_that_was_started_again_is_another_place(monkeypatch):
    here = me().machine
    monkeypatch.setattr(processes.Path, "read_text", lambda self, **_: "another boot")
    processes._machine.cache_clear()
    try:
        assert ProcessId.of(os.getpid()).machine != here
    finally:
        processes._machine.cache_clear()


def test_a_text_comes_back_as_the_identity_and_may_carry_the_name_of_a_thread():
    assert ProcessId.parse(str(me())) == me()
    assert ProcessId.parse(f"{me()}:thread 3:x") == me()
    assert len(str(me())) <= 60


@pytest.mark.parametrize("text", ["", "a", "a:b:c", "a:1", "a:1:x"])
def test_a_text_that_cannot_be_read_is_not_known_to_be_dead(text):
    assert not is_dead(text)


def test_a_forked_child_is_another_process():
    context = multiprocessing.get_context("fork")
    parent, child = context.Pipe()
    process = context.Process(target=lambda: child.send(str(me())))
    mine = str(me())
    process.start()
    assert parent.poll(30), "the child sent nothing in 30 s"
    text = parent.recv()
    process.join(30)
    assert text != mine
    assert is_dead(text)
