"""Settings every test shares."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tensors of tests are small: a second thread only waits, and some decompositions depend on the count."""
    torch.set_num_threads(1)
