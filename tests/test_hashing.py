import hashlib

import pytest
import torch

from atlas_cli.errors import ResourceError
from atlas_cli.hashing import sha256_file, sha256_tensors, sha256_text

BASE = {"a": torch.arange(6, dtype=torch.float32).view(2, 3), "b": torch.tensor(1.0, dtype=torch.bfloat16)}


@pytest.mark.parametrize(
    "changed",
    [
        {"a": BASE["a"], "c": BASE["b"]},
        {"a": BASE["a"].view(3, 2), "b": BASE["b"]},
        {"a": BASE["a"].view(torch.int32), "b": BASE["b"]},
        {"a": BASE["a"] + torch.tensor([0, 0, 1e-6]), "b": BASE["b"]},
        {"a": BASE["a"]},
        BASE | {"c": torch.empty(0)},
        {"a": BASE["b"], "b": BASE["a"]},
    ],
    ids=["name", "shape", "dtype", "value", "missing", "empty", "swapped"],
)
def test_any_difference_gives_another_hash(changed):
    assert sha256_tensors(changed) != sha256_tensors(BASE)


def test_order_strides_and_gradients_do_not_matter():
    other = {"b": BASE["b"].clone(), "a": BASE["a"].T.contiguous().T.requires_grad_()}
    assert not other["a"].is_contiguous()
    assert sha256_tensors(other) == sha256_tensors(BASE)


@pytest.mark.parametrize(
    "device",
    [
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
        pytest.param("mps", marks=pytest.mark.skipif(not torch.backends.mps.is_available(), reason="no MPS device")),
    ],
)
def test_the_device_does_not_matter(device):
    assert sha256_tensors({name: t.to(device) for name, t in BASE.items()}) == sha256_tensors(BASE)


def test_the_hash_is_of_the_documented_bytes():
    tensor = torch.tensor([1.0, -2.0])
    expected = hashlib.sha256(b'["w", "torch.float32", [2]]\n' + tensor.numpy().tobytes()).hexdigest()
    assert sha256_tensors({"w": tensor}) == expected


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_every_dtype_can_be_hashed(dtype):
    assert len(sha256_tensors({"a": torch.ones(3).to(dtype)})) == 64


def test_text_and_file_agree(tmp_path):
    (tmp_path / "a").write_text("é", encoding="utf-8")
    assert sha256_file(tmp_path / "a") == sha256_text("é") == hashlib.sha256(b"\xc3\xa9").hexdigest()
    with pytest.raises(ResourceError, match="cannot read"):
        sha256_file(tmp_path / "none")
