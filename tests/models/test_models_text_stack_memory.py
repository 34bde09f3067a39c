"""Memory stays flat however many lengths of packed texts there have been."""

import subprocess
import sys

SCRIPT = """
import resource, torch
from fusar_klip.models.network.bert import _gelu

def passed(lengths):
    for length in lengths:
        _gelu(torch.ones(length, 768, requires_grad=True)).sum().backward()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before = passed([1500] * 3)
print(passed(range(1000, 1400, 4)) - before)
"""


def test_memory_does_not_grow_with_the_number_of_lengths() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    # oneDNN would keep about 3 MiB for each of the hundred lengths.
    assert float(done.stdout) < 60
