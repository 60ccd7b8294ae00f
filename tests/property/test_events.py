"""What is recorded comes out whole and in order, or is counted: whatever the sizes, wherever the ring begins anew."""

import os
import threading

from hypothesis import given
from hypothesis import strategies as st
from support.examples import examples

from funkenshield.core._clock import Clock
from funkenshield.events._dnstap import MESSAGE_TYPES
from funkenshield.events._recorder import Output, Recorder

sizes = st.lists(st.integers(12, 65535) | st.integers(12, 600), max_size=120)


@examples(30)
@given(sizes)
def test_events_come_out_whole_and_in_order_or_are_counted(sizes):
    there, here = os.pipe()
    read = []
    reader = threading.Thread(target=lambda: read.append(_all_of(there)))
    reader.start()
    output = Output(
        form="dnstap", place="descriptor", fd=here, kinds=[0], types=[MESSAGE_TYPES["client_response"]]
    )  # fmt: skip
    recorder = Recorder(Clock())
    recorder.configure((output,))
    messages = [number.to_bytes(2, "big") * (size // 2) for number, size in enumerate(sizes)]
    taken = [each for each in messages if recorder.record(0, b"", each, address=bytes(4))]
    recorder.stop()
    thread = threading.Thread(target=recorder.run)
    thread.start()
    thread.join()
    os.close(here)
    reader.join()
    os.close(there)
    frames = list(_frames(read[0]))
    counted = output.counters()
    assert len(taken) + recorder.lost == len(messages)
    assert len(frames) == counted["written"]
    assert counted["written"] + counted["lost"] == len(taken)
    left = iter(taken)
    assert all(any(each in frame for each in left) for frame in frames)  # in this order


def _all_of(fd):
    octets = b""
    while more := os.read(fd, 1 << 20):
        octets += more
    return octets


def _frames(octets):
    while octets:
        length = int.from_bytes(octets[:4], "big")
        yield octets[4 : 4 + length]
        octets = octets[4 + length :]
