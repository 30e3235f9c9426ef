import pytest

from croc_cli.launch.devices import CudaDevice, Machine, inspect_machine, parse_device, visible_devices

INSTALLED = tuple(CudaDevice(str(index), "A100", 80) for index in range(4))


@pytest.mark.parametrize(
    ("visible", "ids"),
    [(None, "0123"), ("2,3", "23"), ("", ""), ("-1", ""), ("1,9,2", "1"), (" 3 , 0 ", "30")],
)
def test_cuda_visible_devices_means_what_it_means_to_cuda(visible: str | None, ids: str) -> None:
    assert [device.id for device in visible_devices(INSTALLED, visible)] == list(ids)


def test_devices_named_by_uuid_are_kept_as_they_stand() -> None:
    found = visible_devices(INSTALLED, "GPU-8f1c,MIG-77")
    assert [device.id for device in found] == ["GPU-8f1c", "MIG-77"]
    assert visible_devices((), "GPU-8f1c") == ()


def test_nvidia_smi_lines_are_read_with_commas_in_names_and_no_memory() -> None:
    assert parse_device("0, GPU-1, NVIDIA A100, 80GB, 81920") == CudaDevice("0", "NVIDIA A100, 80GB", 81920 * 2**20)
    assert parse_device("1, GPU-2, GH200, [N/A]") == CudaDevice("1", "GH200", 0)


def test_this_machine_is_described_in_a_line() -> None:
    here = inspect_machine({"CUDA_VISIBLE_DEVICES": ""})
    assert here.cuda == ()
    assert here.num_cores >= 1
    assert here.memory_bytes > 0
    assert Machine((), 2, 21 * 10**9).describe() == "2 CPU cores, 21 GB of memory, no CUDA device"
    assert Machine(INSTALLED, 64, 10**12).describe() == "64 CPU cores, 1000 GB of memory, 4 × A100"
