"""Inside `kept_memory`, a tensor's memory is the process's own after it was freed; outside, the system's."""

import ctypes
import platform
import subprocess
import sys

import pytest

COUNT = """
import resource, torch
from haf_utils.memory import kept_memory

def faults(warm=0):
    for _ in range(warm):
        torch.ones(20_000_000)  # 80 MB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(20_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
counts = [faults()]
with kept_memory():
    counts.append(faults(warm=20))  # aligned pieces of equal size take a few rounds to find the same place
    with kept_memory():
        counts.append(faults())
    counts.append(faults())
counts.append(faults())

@kept_memory()
def decorated():
    return faults(warm=20)

print(*counts, decorated(), decorated())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc: nothing to keep")
def test_freed_memory_is_faulted_in_only_outside():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    before, first, nested, again, after, *decorated = map(int, done.stdout.split())
    # Pages have 4 kB, or 2 MB where the system gives huge ones: then there is little to see outside.
    assert max(first, nested, again, *decorated) < 5
    assert before >= 5 and after >= 5


SPARE = """
import resource, sys, torch
from haf_utils.memory import kept_memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()

before = resident()
with kept_memory():
    tensors = [torch.ones(1_000_000) for _ in range(int(sys.argv[1]))]  # 4 MB each
    del tensors
print((resident() - before) // 4_000_000)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc from 2.33 on says how much is free")
def test_a_little_stays_until_the_next_time_and_much_goes_back():
    little, much = (
        int(subprocess.run([sys.executable, "-c", SPARE, count], capture_output=True, text=True, check=True).stdout)
        for count in ("30", "300")
    )
    assert 25 <= little <= 35 and much <= 10
