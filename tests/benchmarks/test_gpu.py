"""The device benchmark on the CPU."""

from pathlib import Path

import pytest
import torch

from benchmarks import gpu


def test_bytes_a_rating_by_hand() -> None:
    # One factor and a bias: two rows of 8 bytes, twice; 12 bytes of indices and rating; 10 rows of 2 · 32 bytes a step.
    assert gpu.bytes_per_rating(1, 10, 5) == 4 * 8 + 12 + 640 / 5


def test_every_run_adds_a_section(tmp_path: Path) -> None:
    out = tmp_path / "results.md"
    sizes = ["--ratings", "2000", "--factors", "4", "--batch-sizes", "256", "512", "--epochs", "2", "--copy-mib", "1"]
    sizes += ["--rows", "100"]
    for _ in range(2):
        gpu.main(["--device", "cpu", *sizes, "--data", str(tmp_path), "--out", str(out)])
    text = out.read_text()
    assert text.startswith(f"# {gpu.TITLE}\n")
    assert text.count("\n## CPU, ") == 2
    assert text.count("\n### Throughput\n") == 2
    assert text.count("\n| 4 | 256 | **") == text.count("\n| 4 | 512 | **") == 2
    assert text.count("\n| 100 | ") == 2
    assert "Time to quality" not in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_error_without_a_cuda_device(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--out", str(tmp_path / "results.md")])
    assert ended.value.code == 1
    assert "no CUDA device" in capsys.readouterr().err
    assert not (tmp_path / "results.md").exists()
