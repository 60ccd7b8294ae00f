"""What Python may have no function for: files in memory, which keep their length, and processes by descriptor."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from funkenshield.core import system_calls

PACKAGE = Path(system_calls.__file__).parents[1]


def test_a_file_in_memory_keeps_its_length_for_all_and_is_closed_in_other_programs():
    with open(system_calls.memory_file("test"), "w+b") as file:
        assert not os.get_inheritable(file.fileno())
        file.truncate(4096)
        system_calls.seal(file.fileno())
        for length in 0, 8192:
            with pytest.raises(PermissionError):
                os.ftruncate(file.fileno(), length)
        with pytest.raises(PermissionError):
            system_calls.seal(file.fileno())


def test_a_process_is_ended_by_its_descriptor_and_one_that_is_gone_is_told():
    with subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]) as child:
        process = system_calls.open_process(child.pid)
        system_calls.kill(process)
    assert child.returncode == -signal.SIGKILL
    with pytest.raises(ProcessLookupError):
        system_calls.kill(process)
    with pytest.raises(ProcessLookupError):
        system_calls.open_process(child.pid)
    os.close(process)


def test_what_python_lacks_where_it_was_built_for_an_older_c_library_is_used_nowhere():
    lacking = re.compile(
        r"os\.(memfd_create|MFD_|pidfd_open|P_PIDFD|copy_file_range|getrandom|RWF_)|signal\.pidfd|select\.EPOLLEXCLUSIVE"
        r"|fcntl\.F_(\w*SEAL|OFD_)|mmap\.MADV_FREE|socket\.(IP_BIND_ADDRESS|SO_INCOMING_CPU|IPV6_DONTFRAG|TCP_FASTOPEN_)"
    )
    used = {file.name: lacking.findall(file.read_text()) for file in PACKAGE.rglob("*.py")}
    assert {file: found for file, found in used.items() if found} == {}
