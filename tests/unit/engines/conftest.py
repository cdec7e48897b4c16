"""What more than one file of the engines' tests needs."""

import pytest


@pytest.fixture(scope="module")
def one_thread():
    """Steps are short: on a busy machine torch's threads would mostly wait for each other."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)
