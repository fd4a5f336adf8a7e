"""What a serving process relies on: one shared model, bounded memory."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq

from rgals.artifact.model import Model
from tests.artifact.model_factory import Parts, ids_of

BATCH_PROGRAM = """
import resource, sys
from rgals.artifact.batch import recommend_all, tile_users
from rgals.artifact.model import Model

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

model = Model.open(sys.argv[1], verify="manifest")
budget, k = int(sys.argv[3]), int(sys.argv[4])
recommend_all(model, sys.argv[2] + ".warm", 1, memory_budget_bytes=1 << 20)
before = peak_bytes()
summary = recommend_all(model, sys.argv[2], k, memory_budget_bytes=budget, n_threads=2)
print(summary.n_rows, summary.tile_users, peak_bytes() - before)
"""


def test_writing_the_lists_of_all_users_takes_no_more_memory_than_the_budget(tmp_path):
    n_users, n_items, k = 40_000, 200, 100
    rng = np.random.default_rng(0)
    changes = {
        "user_factors": rng.standard_normal((n_users, 4), dtype=np.float32),
        "item_factors": rng.standard_normal((n_items, 4), dtype=np.float32),
    }
    Parts(n_users, n_items, 4, density=0.01, changes=changes).write(tmp_path / "model")
    output, budget = tmp_path / "lists.parquet", 64 << 20
    command = [sys.executable, "-c", BATCH_PROGRAM, str(tmp_path / "model"), str(output), str(budget), str(k)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    n_rows, n_tile, growth_bytes = map(int, run.stdout.split())
    assert n_rows == pq.read_metadata(output).num_rows == n_users * k
    assert n_tile < n_users / 4
    # What all lists together would take, as tables alone, is several times the budget.
    assert n_rows * 48 > 2.5 * budget
    assert growth_bytes < 1.25 * budget


def test_threads_share_one_model_and_get_the_answers_of_one_thread(tmp_path):
    model = Parts(30, 50, 4, has_weights=True, empty_users=(3,)).write(tmp_path / "model")
    users, items = ids_of(model.user_ids), ids_of(model.item_ids)

    def ask(position: int) -> tuple[object, ...]:
        user, item = users[position % len(users)], items[position % len(items)]
        return (
            model.recommend([user], 5, n_threads=1),
            model.recommend_history([item], 5),
            model.similar_items(item, 5, n_threads=1),
            model.similar_users(user, 5, n_threads=1),
        )

    expected = [ask(position) for position in range(60)]
    fresh = Model.open(tmp_path / "model")
    model = fresh  # with nothing computed yet, so that threads meet in the first computation
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(60))) == expected


def test_opening_a_model_reads_neither_factors_nor_interactions(tmp_path):
    model = Parts().write(tmp_path / "model")
    for name in ("user_factors.npy", "seen_columns.npy"):
        path = tmp_path / "model" / name
        size = path.stat().st_size
        with path.open("r+b") as stream:
            stream.seek(128)
            stream.write(b"\xff" * (size - 128))
    opened = Model.open(tmp_path / "model", verify="manifest")
    assert opened.user_factors.shape == model.user_factors.shape
    assert np.isnan(opened.user_factors).all()


def test_a_model_answers_after_its_folder_was_replaced(tmp_path):
    """A service keeps its open files; the new folder is another one under the same name."""
    old = Parts(seed=0).write(tmp_path / "model")
    user = ids_of(old.user_ids)[0]
    before = old.recommend([user], 5)
    new = Parts(seed=9).write(tmp_path / "model", overwrite=True)
    assert old.recommend([user], 5) == before
    assert new.recommend([user], 5) != before


def test_a_model_tells_whom_and_what_it_holds(tmp_path):
    model = Parts(kind="int64").write(tmp_path / "model")
    assert model.has_user(5)
    assert model.has_user("65")
    assert not model.has_user(75)
    assert not model.has_user("nobody")
    assert model.has_item(105)
    assert not model.has_item(115)
