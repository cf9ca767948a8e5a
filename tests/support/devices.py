"""Where a test computes: on the CPU, and on a GPU where torch sees one."""

import pytest
import torch

ON_A_GPU = (pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
GPU = pytest.param("cuda", marks=ON_A_GPU)
