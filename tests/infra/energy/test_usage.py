from dataclasses import fields

import pytest

from infra.energy.usage import Usage

BLOCK = Usage(cpu_s=10, wall_s=12, rss_gb_s=4, package_j=50, dram_j=10, gpu_j=5, simulation_cpu_s=6, counted_cpu_s=10)


def test_usages_add_field_by_field() -> None:
    total = BLOCK + Usage(cpu_s=1, circuits=3, shots=30)
    assert (total.cpu_s, total.circuits, total.shots, total.package_j) == (11, 3, 30, 50)
    assert total - Usage(cpu_s=1, circuits=3, shots=30) == BLOCK


def test_a_mean_rounds_counts_and_divides_the_rest() -> None:
    mean = Usage(cpu_s=3, circuits=4).scaled(1 / 2)
    assert (mean.cpu_s, mean.circuits) == (1.5, 2)


def test_a_part_takes_counter_joules_by_its_cpu_seconds() -> None:
    rest, part = BLOCK.split(Usage(cpu_s=4, wall_s=3, rss_gb_s=1, simulation_cpu_s=4))
    assert (part.package_j, part.dram_j, part.counted_cpu_s) == (20, 4, 4)
    assert (rest.cpu_s, rest.rss_gb_s, rest.package_j, rest.simulation_cpu_s) == (6, 3, 30, 2)
    assert rest.wall_s == BLOCK.wall_s  # the rest waited for the part


def test_what_was_split_is_what_there_was() -> None:
    rest, part = BLOCK.split(Usage(cpu_s=4, rss_gb_s=1, simulation_cpu_s=4))
    assert (rest + part) == BLOCK


def test_a_part_larger_than_the_block_leaves_nothing_negative() -> None:
    rest, _ = Usage(cpu_s=1, package_j=5).split(Usage(cpu_s=3, rss_gb_s=2))
    assert all(getattr(rest, f.name) >= 0 for f in fields(rest))
    assert rest.package_j == pytest.approx(0)


def test_a_block_without_cpu_time_can_be_split() -> None:
    assert Usage(wall_s=1).split(Usage())[0] == Usage(wall_s=1)
