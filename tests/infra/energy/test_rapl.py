"""The powercap tree is laid out as on two-socket servers; see the kernel's Documentation/power/powercap."""

import os
from pathlib import Path

import pytest

from infra.energy.rapl import RaplCounter, find_domains

RANGE_UJ = 262_143_328_850


def zone(root: Path, name: str, label: str, uj: int, range_uj: int = RANGE_UJ) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{label}\n")
    (folder / "energy_uj").write_text(f"{uj}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    return folder


@pytest.fixture
def two_sockets(tmp_path: Path) -> Path:
    (tmp_path / "intel-rapl").mkdir()  # the control type itself
    for socket in (0, 1):
        zone(tmp_path, f"intel-rapl:{socket}", f"package-{socket}", 1_000_000)
        zone(tmp_path, f"intel-rapl:{socket}:0", "core", 900_000)
        zone(tmp_path, f"intel-rapl:{socket}:1", "dram", 500_000)
    zone(tmp_path, "intel-rapl:2", "psys", 9_000_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 1_000_000)
    return tmp_path


def add(root: Path, name: str, uj: int) -> None:
    file = root / name / "energy_uj"
    file.write_text(str(int(file.read_text()) + uj))


def test_packages_and_their_dram_are_found_once(two_sockets: Path) -> None:
    domains, reason = find_domains(two_sockets)
    assert sorted(d.name for d in domains) == ["dram", "dram", "package-0", "package-1"]
    assert reason == ""


def test_nested_zones_are_found_once(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "package-0", 1)
    zone(tmp_path / "intel-rapl:0", "intel-rapl:0:0", "dram", 1)
    (tmp_path / "intel-rapl:0:0").symlink_to(tmp_path / "intel-rapl:0" / "intel-rapl:0:0")
    assert [d.name for d in find_domains(tmp_path)[0]] == ["package-0", "dram"]


def test_all_packages_and_dram_add_up(two_sockets: Path) -> None:
    counter = RaplCounter(find_domains(two_sockets)[0])
    add(two_sockets, "intel-rapl:0", 7_000_000)
    add(two_sockets, "intel-rapl:1", 5_000_000)
    add(two_sockets, "intel-rapl:1:1", 2_000_000)
    add(two_sockets, "intel-rapl:0:0", 6_000_000)  # cores are inside the package
    counter.update()
    assert counter.package_j == pytest.approx(12)
    assert counter.dram_j == pytest.approx(2)


def test_a_counter_that_wraps_goes_on(tmp_path: Path) -> None:
    folder = zone(tmp_path, "intel-rapl:0", "package-0", 990_000, range_uj=1_000_000)
    counter = RaplCounter(find_domains(tmp_path)[0])
    for uj in (20_000, 900_000, 10_000):  # wraps twice
        (folder / "energy_uj").write_text(str(uj))
        counter.update()
    assert counter.package_j == pytest.approx((30_000 + 880_000 + 110_000) * 1e-6)


def test_no_tree_says_why(tmp_path: Path) -> None:
    domains, reason = find_domains(tmp_path / "powercap")
    assert domains == ()
    assert "does not exist" in reason


def test_a_tree_without_package_says_why(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", "psys", 1)
    domains, reason = find_domains(tmp_path)
    assert domains == ()
    assert "no CPU package" in reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_counter_for_root_alone_is_not_available(two_sockets: Path) -> None:
    (two_sockets / "intel-rapl:0" / "energy_uj").chmod(0o000)
    domains, reason = find_domains(two_sockets)
    assert domains == ()
    assert "permission denied" in reason


def test_a_refused_read_is_not_available(two_sockets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text

    def refuse(path: Path, *args: object, **kwargs: object) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_text", refuse)
    domains, reason = find_domains(two_sockets)
    assert domains == ()
    assert "permission denied" in reason
