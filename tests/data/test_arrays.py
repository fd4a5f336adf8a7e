import numpy as np
import pytest

from rgals.data.arrays import check_array, is_memory_mapped, read_array, write_array
from rgals.data.storage import Folder
from rgals.errors import DataError

ARRAY = np.zeros((4, 3), np.float32)


@pytest.mark.parametrize("shape", [(4, 3), (None, 3), (4, None), (None, None)])
def test_an_array_of_the_prescribed_type_and_shape_passes(shape):
    check_array("factors.npy", ARRAY, np.float32, shape)


@pytest.mark.parametrize(
    ("array", "dtype", "shape"),
    [
        (ARRAY, np.float64, (4, 3)),
        (ARRAY, np.float32, (4,)),
        (ARRAY, np.float32, (4, 3, 1)),
        (ARRAY, np.float32, (None, 4)),
        (np.asfortranarray(ARRAY), np.float32, (4, 3)),
        (ARRAY.astype(">f4"), np.float32, (4, 3)),
    ],
)
def test_another_type_shape_or_order_is_named_with_its_path(array, dtype, shape):
    with pytest.raises(DataError, match=r"factors.npy: expected float.* in C order, found .*; write the folder again"):
        check_array("factors.npy", array, dtype, shape)


def test_numpy_reads_what_is_written_and_the_other_way_round(tmp_path):
    folder = Folder.at(tmp_path)
    for array in (np.arange(12.0).reshape(3, 4), np.asfortranarray(np.arange(6).reshape(2, 3)), np.array([True])):
        write_array(folder, "ours.npy", array)
        np.testing.assert_array_equal(np.load(tmp_path / "ours.npy", allow_pickle=False), array)
        np.save(tmp_path / "theirs.npy", array)
        found = read_array(folder, "theirs.npy")
        np.testing.assert_array_equal(found, array)
        assert is_memory_mapped(found[1:])
        assert not is_memory_mapped(found + 0)
        with pytest.raises(ValueError, match="read-only"):
            found[...] = 0


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"PAR1 is not NumPy", b"\x80\x04K\x01."])
def test_what_is_not_a_numpy_file_is_a_data_error(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"x.npy: not a readable NumPy file"):
        read_array(Folder.at(tmp_path), "x.npy")
