import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Two torch threads on a shared machine wait for each other; one gives steady tests."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_draws():
    """Every test draws the same random numbers, alone or among others."""
    torch.manual_seed(0)
