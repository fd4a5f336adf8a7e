"""The tables of docs/scaling.md, computed from the plan.

python benchmarks/scaling_table.py           prints them
python benchmarks/scaling_table.py --write   puts them into docs/scaling.md

The speed of the kernels is a fixed number here, so that the tables are the same on any machine.
"""

import argparse
import math
from pathlib import Path

from rgals.execution.finding import readable_bytes
from rgals.training.capacity import Limits, find_shortages
from rgals.training.plan import Plan, PlanInput, make_plan
from rgals.training.sweep_time import Calibration, Rates

BEGIN, END = "<!-- begin: benchmarks/scaling_table.py -->", "<!-- end: benchmarks/scaling_table.py -->"

# Seconds per interaction and factor, and per row and squared factor, of one thread.
CALIBRATION = Calibration((Rates(1, user_solve_s=1.5e-9, item_solve_s=1.5e-9, rotate_s=3.6e-11),))
NETWORK_GBIT = 10.0

PROBLEMS = {
    "10⁸": (10**6, 2 * 10**5, 10**8),
    "10⁹": (10**7, 10**6, 10**9),
    "10¹⁰": (10**8, 5 * 10**6, 10**10),
}
CLUSTERS = ((1, 16, 64), (4, 32, 128), (16, 32, 256), (64, 32, 256))
FACTORS = (64, 128)


def plan_for(sizes: tuple[int, int, int], n_factors: int, n_nodes: int, n_cpus: int) -> Plan:
    """Plan one run with one worker on each node."""
    asked = PlanInput(*sizes, n_factors, n_workers=n_nodes, worker_cpus=n_cpus, n_nodes=n_nodes)
    return make_plan(asked, CALIBRATION, NETWORK_GBIT)


def readable_s(seconds: float) -> str:
    """Write seconds with two digits, minutes from 100 s on."""
    if seconds >= 100:
        return f"{seconds / 60:.1f} min"
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s"


def cluster_rows() -> list[str]:
    """Give one row for each problem, number of factors and cluster."""
    rows = []
    for name, sizes in PROBLEMS.items():
        for n_factors in FACTORS:
            for n_nodes, n_cpus, memory_gb in CLUSTERS:
                plan = plan_for(sizes, n_factors, n_nodes, n_cpus)
                time = plan.time.last
                fits = not find_shortages(plan, Limits("", memory_bytes=memory_gb * 10**9))
                cells = [
                    name,
                    str(n_factors),
                    f"{n_nodes} x {n_cpus} CPUs, {memory_gb} GB",
                    readable_bytes(plan.worker_bytes),
                    readable_bytes(plan.object_store_bytes),
                    readable_bytes(plan.driver_bytes),
                    readable_bytes(plan.node_bytes + plan.object_store_bytes),
                    "yes" if fits else "**no**",
                ]
                seconds = ["", "", "", ""]
                if fits:
                    parts = (time.solve_s, time.rotate_s, time.network_s, time.total_s)
                    seconds = [readable_s(part) if part else "0" for part in parts]
                rows.append(row([*cells, *seconds]))
    return rows


def node_rows() -> list[str]:
    """Give, for each problem, seconds of a sweep by nodes of 32 CPUs, and where more of them stop helping."""
    rows = []
    for name, sizes in PROBLEMS.items():
        for n_factors in FACTORS:
            times = [plan_for(sizes, n_factors, n_nodes, 32).time.last for n_nodes in (1, 4, 16, 64, 256)]
            alone, many = times[0], times[-1]
            half = math.ceil(alone.solve_s / (many.rotate_s + many.network_s))
            rows.append(row([name, str(n_factors), *(readable_s(time.total_s) for time in times), str(half)]))
    return rows


def storage_rows() -> list[str]:
    """Give what does not depend on the cluster: disk, and what a node of many receives."""
    rows = []
    for name, sizes in PROBLEMS.items():
        for n_factors in FACTORS:
            plan = plan_for(sizes, n_factors, 64, 32)
            cells = [readable_bytes(item.n_bytes) for item in plan.disk]
            rows.append(row([name, str(n_factors), *cells, readable_bytes(plan.network_bytes)]))
    return rows


def row(cells: list[str]) -> str:
    """Write a row of a table."""
    return f"| {' | '.join(cells)} |"


def table(header: str, rows: list[str]) -> list[str]:
    """Put a header above rows."""
    return [header, "|---" * (header.count("|") - 1) + "|", *rows]


def tables() -> str:
    """Give all tables, as they stand in the documentation."""
    rates = CALIBRATION.rates[0]
    lines = [
        f"Speed of a thread: {rates.user_solve_s:.1e} s per interaction and factor in each half-step, "
        f"{rates.rotate_s:.1e} s per row and",
        f"squared factor, taken to scale with the CPUs; network {NETWORK_GBIT:g} Gbit/s. One worker on each node, no "
        "weights, no patience.",
        "",
        *table(
            "| interactions | factors | cluster | worker | object store of a node | driver | fullest node | fits "
            "| solving | rotating | network | a sweep |",
            cluster_rows(),
        ),
        "",
        "Seconds of a sweep on nodes of 32 CPUs, were they large enough; *equal*: the nodes at which solving takes as",
        "long as rotating and receiving, which more nodes do not shorten:",
        "",
        *table("| interactions | factors | 1 node | 4 | 16 | 64 | 256 | equal |", node_rows()),
        "",
        "What does not depend on the nodes (checkpoints: 2 kept and one being written; network: of 64 nodes):",
        "",
        *table("| interactions | factors | dataset | checkpoints | model | network, a node, a sweep |", storage_rows()),
    ]
    return "\n".join(lines)


def put_tables(text: str) -> str:
    """Replace what stands between the markers."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{tables()}\n{END}{after}"


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scaling.md")
    if not parser.parse_args().write:
        print(tables())
        return
    page = Path(__file__).resolve().parents[1] / "docs" / "scaling.md"
    page.write_text(put_tables(page.read_text()))


if __name__ == "__main__":
    main()
