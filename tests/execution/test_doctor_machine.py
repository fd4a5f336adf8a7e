"""Checks of the machine, each tried with a machine that is fit and with one that is not."""

import errno
import resource
from types import SimpleNamespace

import pytest

from rgals.execution import doctor_machine as machine
from tests.data.object_store import object_store

GB = 1_000_000_000


def write(root, **files):
    """Write files below a root; a double underscore stands for a slash."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def linux(root, group="0::/\n", total_kb=16_000_000, available_kb=8_000_000, swap_kb=0, swap_free_kb=0):
    meminfo = (
        f"MemTotal: {total_kb} kB\nMemFree: 1 kB\nMemAvailable: {available_kb} kB\n"
        f"SwapTotal: {swap_kb} kB\nSwapFree: {swap_free_kb} kB\nHugePages_Total: 0\n"
    )
    write(root, proc__self__cgroup=group, proc__meminfo=meminfo)
    return root


def put(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_no_quota_where_no_group_has_one(tmp_path):
    linux(tmp_path)
    assert machine.read_cpu_quota(tmp_path) is None
    put(tmp_path / "sys/fs/cgroup/cpu.max", "max 100000\n")
    assert machine.read_cpu_quota(tmp_path) is None


def test_the_smallest_quota_of_the_groups_around_counts(tmp_path):
    linux(tmp_path, group="0::/outer/inner\n")
    put(tmp_path / "sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n")
    put(tmp_path / "sys/fs/cgroup/outer/cpu.max", "150000 100000\n")
    put(tmp_path / "sys/fs/cgroup/cpu.max", "400000 100000\n")
    assert machine.read_cpu_quota(tmp_path) == 1.5


def test_the_path_of_a_group_can_be_the_hosts(tmp_path):
    linux(tmp_path, group="0::/docker/0123\n")
    put(tmp_path / "sys/fs/cgroup/cpu.max", "50000 100000\n")
    assert machine.read_cpu_quota(tmp_path) == 0.5


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3.0), ("-1", None)])
def test_the_first_version_of_groups_is_read_too(tmp_path, quota, expected):
    linux(tmp_path, group="5:cpu,cpuacct:/job\n4:memory:/job\n")
    put(tmp_path / "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", f"{quota}\n")
    put(tmp_path / "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n")
    assert machine.read_cpu_quota(tmp_path) == expected


def test_memory_without_a_group(tmp_path):
    memory = machine.read_memory(linux(tmp_path))
    assert memory == machine.Memory(16_384_000_000, 8_192_000_000, None, 0, 0)


@pytest.mark.parametrize("is_new", [True, False])
def test_the_limit_of_the_group_counts_and_its_page_cache_is_available(tmp_path, is_new):
    linux(tmp_path, group="0::/job\n" if is_new else "4:memory:/job\n")
    group = tmp_path / ("sys/fs/cgroup/job" if is_new else "sys/fs/cgroup/memory/job")
    put(group / ("memory.max" if is_new else "memory.limit_in_bytes"), "4000000000")
    put(group / ("memory.current" if is_new else "memory.usage_in_bytes"), "3000000000")
    put(group / "memory.stat", "anon 5\n" + ("inactive_file" if is_new else "total_inactive_file") + " 500000000\n")
    assert machine.read_memory(tmp_path) == machine.Memory(4 * GB, 1_500_000_000, 4 * GB, 0, 0)


def test_a_huge_limit_is_none(tmp_path):
    linux(tmp_path, group="4:memory:/\n")
    put(tmp_path / "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712")
    assert machine.read_memory(tmp_path).limit_bytes is None


@pytest.mark.parametrize(("available", "status"), [(8 * GB, "ok"), (GB, "warning"), (GB // 4, "problem")])
def test_memory_is_judged_by_what_is_available(available, status):
    finding = machine.check_memory(machine.Memory(16 * GB, available, None, 0, 0))
    assert (finding.status, bool(finding.advice)) == (status, status != "ok")
    assert "of 16 GB" in finding.found
    assert "control group" not in finding.found


def test_a_limit_of_the_group_is_said():
    assert "limited by the control group" in machine.check_memory(machine.Memory(4 * GB, 3 * GB, 4 * GB, 0, 0)).found


@pytest.mark.parametrize(("size", "used", "status"), [(0, 0, "ok"), (8, 0, "ok"), (8, 2, "warning")])
def test_swap_is_no_fault_unless_it_is_used(size, used, status):
    finding = machine.check_swap(machine.Memory(16 * GB, 8 * GB, None, size * GB, used * GB))
    assert (finding.status, bool(finding.advice)) == (status, status != "ok")


def test_swap_is_read(tmp_path):
    memory = machine.read_memory(linux(tmp_path, swap_kb=1000, swap_free_kb=250))
    assert (memory.swap_bytes, memory.swap_used_bytes) == (1_024_000, 768_000)


@pytest.mark.parametrize(
    ("free", "status"), [(5 * GB, "ok"), (4_799_999_999, "warning"), (79 * 2**20, "warning"), (64 * 2**20, "problem")]
)
def test_shared_memory_is_compared_with_what_ray_takes(tmp_path, free, status):
    usage = SimpleNamespace(total=6 * GB, free=free)
    finding = machine.check_shared_memory(16 * GB, tmp_path, lambda folder: usage)
    assert finding.status == status
    assert "Ray wants 4.8 GB" in finding.found
    assert ("--shm-size=4800000000" in finding.advice) == (status != "ok")
    assert ("shm_size: 4800000000" in finding.advice) == (status != "ok")


def test_ray_never_takes_more_than_200_gb(tmp_path):
    usage = SimpleNamespace(total=300 * GB, free=200 * GB)
    assert machine.check_shared_memory(1000 * GB, tmp_path, lambda folder: usage).status == "ok"


def test_missing_shared_memory_is_a_problem(tmp_path):
    finding = machine.check_shared_memory(16 * GB, tmp_path / "shm")
    assert finding.status == "problem"
    assert str(tmp_path / "shm") in finding.found


@pytest.mark.parametrize(
    ("quota", "status", "advice"),
    [(None, "ok", ""), (4.0, "ok", ""), (2.5, "warning", "--threads 2 "), (0.5, "warning", "--threads 1 ")],
)
def test_a_quota_below_the_processors_is_a_warning(quota, status, advice):
    finding = machine.check_processors(4, quota)
    assert finding.status == status
    assert advice in finding.advice


@pytest.mark.parametrize(
    ("soft", "hard", "status", "advice"),
    [
        (65536, 65536, "ok", ""),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, "ok", ""),
        (1024, 20000, "warning", "ulimit -n 20000"),
        (1024, resource.RLIM_INFINITY, "warning", "ulimit -n 65536"),
        (1024, 2048, "warning", "hard limit"),
        (256, 512, "problem", "hard limit"),
    ],
)
def test_the_limit_of_open_files(soft, hard, status, advice):
    asked = []
    finding = machine.check_file_limit(lambda which: asked.append(which) or (soft, hard))
    assert asked == [resource.RLIMIT_NOFILE]
    assert finding.status == status
    assert advice in finding.advice
    assert bool(finding.advice) == (status != "ok")


@pytest.mark.parametrize(
    ("soft", "group", "status"),
    [
        (resource.RLIM_INFINITY, None, "ok"),
        (96000, "max", "ok"),
        (96000, "2000", "warning"),
        (2000, "96000", "warning"),
        (96000, "100", "problem"),
    ],
)
def test_the_limit_of_processes(tmp_path, soft, group, status):
    linux(tmp_path)
    if group is not None:
        put(tmp_path / "sys/fs/cgroup/pids.max", group)
    finding = machine.check_process_limit(tmp_path, lambda which: (soft, soft))
    assert (finding.status, bool(finding.advice)) == (status, status != "ok")


class Clock:
    """Gives times one after the other, then goes on with the last."""

    def __init__(self, *times):
        self.times = list(times)

    def __call__(self):
        return self.times.pop(0) if len(self.times) > 1 else self.times[0]


def test_a_disk_is_written_to_and_left_clean(tmp_path):
    usage = SimpleNamespace(total=100 * GB, free=50 * GB)
    finding = machine.check_disk("output", tmp_path / "new" / "model", lambda folder: usage, Clock(0, 0.001))
    assert (finding.name, finding.status, finding.advice) == ("output", "ok", "")
    assert finding.found.startswith(f"{tmp_path}: 50 GB free, writes 16 GB/s")
    assert list(tmp_path.iterdir()) == []


def test_a_slow_disk_is_a_warning_and_costs_no_time(tmp_path):
    usage = SimpleNamespace(total=100 * GB, free=50 * GB)
    # One block is written; then two seconds have gone.
    finding = machine.check_disk("output", tmp_path, lambda folder: usage, Clock(0, 0, 2, 2))
    assert finding.status == "warning"
    assert "writes 500 kB/s" in finding.found


@pytest.mark.parametrize(("free", "status"), [(5 * GB, "warning"), (GB // 2, "problem")])
def test_a_full_disk(tmp_path, free, status):
    usage = SimpleNamespace(total=100 * GB, free=free)
    finding = machine.check_disk("output", tmp_path, lambda folder: usage, Clock(0, 0.001))
    assert finding.status == status
    assert "TMPDIR" in finding.advice


def test_a_folder_that_cannot_be_written_to_is_a_problem(tmp_path):
    (tmp_path / "file").write_text("")
    finding = machine.check_disk("output", tmp_path / "file" / "model")
    assert finding.status == "problem"
    assert "cannot be written to" in finding.found


def test_an_unknown_kind_of_location_is_a_problem():
    assert machine.check_disk("output", "gopher://bucket/model").status == "problem"


def test_an_object_store_is_written_to_and_left_clean(monkeypatch):
    store, filesystem = object_store()
    monkeypatch.setattr(machine.Folder, "at", classmethod(lambda cls, location: cls(filesystem, "bucket/model")))
    finding = machine.check_disk("output", "s3://bucket/model")
    assert finding.status == "ok"
    assert len(store.log) == 1
    assert store.keys == {}


def test_an_object_store_that_gives_other_bytes_is_a_problem(monkeypatch):
    store, filesystem = object_store()
    monkeypatch.setattr(machine.Folder, "at", classmethod(lambda cls, location: cls(filesystem, "bucket/model")))
    monkeypatch.setattr(machine.Folder, "read_bytes", lambda folder, name: b"other")
    assert machine.check_disk("output", "s3://bucket/model").status == "problem"
    assert store.keys == {}


def test_an_object_store_that_refuses_is_a_problem(monkeypatch):
    _, filesystem = object_store()

    def refuse(folder, name, content):
        raise OSError(errno.EACCES, "Access Denied")

    monkeypatch.setattr(machine.Folder, "at", classmethod(lambda cls, location: cls(filesystem, "bucket/model")))
    monkeypatch.setattr(machine.Folder, "write_bytes", refuse)
    finding = machine.check_disk("output", "s3://bucket/model")
    assert finding.status == "problem"
    assert "Access Denied" in finding.found


NOVEMBER_2026 = 1_795_200_000.0


@pytest.mark.parametrize(
    ("wall", "steady", "status"),
    [
        ((NOVEMBER_2026, NOVEMBER_2026 + 0.05), (7, 7.05), "ok"),
        ((NOVEMBER_2026, NOVEMBER_2026 + 3600), (7, 7.05), "warning"),
        ((NOVEMBER_2026, NOVEMBER_2026 - 1), (7, 7.05), "warning"),
        ((NOVEMBER_2026, NOVEMBER_2026 - 0.01), (7, 6.99), "warning"),
        ((5.0, 5.05), (7, 7.05), "problem"),
        ((9e9, 9e9 + 0.05), (7, 7.05), "problem"),
    ],
)
def test_the_clock(wall, steady, status):
    finding = machine.check_clock(Clock(*wall), Clock(*steady), lambda seconds: None)
    assert (finding.status, bool(finding.advice)) == (status, status != "ok")


def test_the_clock_of_this_machine_is_looked_at():
    assert machine.check_clock().found.endswith("UTC")
