"""Soft instructions in files: they come back as they were, or are refused in one line."""

import zipfile

import numpy as np
import pytest

from export.evaluation.instruction import digest, mean, read_instruction, write_instruction
from ppedge.llm.segments import Soft

RNG = np.random.default_rng(0)
ROWS = RNG.normal(0, 1, (2, 8)).astype(np.float32)
CONTROL = RNG.normal(0, 1, (3, 8)).astype(np.float32)


def written(path, soft):
    with path.open("wb") as file:
        write_instruction(file, soft)
    return path


@pytest.mark.parametrize("control", [None, CONTROL], ids=["plain", "steered"])
def test_an_archive_comes_back_as_it_was(tmp_path, control):
    soft = Soft(ROWS, control)
    found = read_instruction(written(tmp_path / "i.npz", soft), 8, 4)
    assert np.array_equal(found.vectors, ROWS)
    assert (found.control is None) == (control is None)
    assert control is None or np.array_equal(found.control, control)
    assert digest(found) == digest(soft)


def test_the_control_vector_is_part_of_the_digest():
    assert digest(Soft(ROWS, CONTROL)) != digest(Soft(ROWS))


def test_an_array_alone_is_soft_tokens(tmp_path):
    np.save(tmp_path / "i.npy", ROWS)
    found = read_instruction(tmp_path / "i.npy", 8, 4)
    assert np.array_equal(found.vectors, ROWS)
    assert found.control is None


@pytest.mark.parametrize("cut", [0, 3, 100, 400, -30])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, cut):
    path = written(tmp_path / "i.npz", Soft(ROWS, CONTROL))
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"^[^\n]*i\.npz: not an array that numpy saved[^\n]*$"):
        read_instruction(path, 8, 4)


def member(content):
    def write(path):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("soft.npy", content)

    return write


def changed(*bytes_at):
    """An archive with bits of its headers set; "c" counts from the central directory."""

    def write(path):
        data = bytearray(written(path, Soft(ROWS)).read_bytes())
        directory = data.find(b"PK\x01\x02")
        for place, value in bytes_at:
            data[directory + int(place[1:]) if place[0] == "c" else int(place)] |= value
        path.write_bytes(data)

    return write


@pytest.mark.parametrize(
    "write",
    [member(b"hello"), member(b""), changed(("6", 1), ("c8", 1)), changed(("8", 99), ("c10", 99))],
    ids=["text", "empty", "encrypted", "odd compression"],
)
def test_an_archive_of_no_arrays_is_refused_in_one_line(tmp_path, write):
    write(tmp_path / "i.npz")
    with pytest.raises(ValueError, match=r"^[^\n]*i\.npz: not an array that numpy saved[^\n]*$"):
        read_instruction(tmp_path / "i.npz", 8, 4)


@pytest.mark.parametrize(
    ("soft", "said"),
    [
        (Soft(ROWS, CONTROL[:2]), r"control vector for this model is float32 \[3, 8\]"),
        (Soft(ROWS, CONTROL.astype(np.float64)), r"not float64 \[3, 8\]"),
        (Soft(ROWS, CONTROL * np.float32(np.nan)), "not finite"),
        (Soft(ROWS[:, :4], CONTROL), r"float32 \[n, 8\]"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(tmp_path, soft, said):
    with pytest.raises(ValueError, match=said):
        read_instruction(written(tmp_path / "i.npz", soft), 8, 4)


def test_a_mean_is_over_both_parts():
    found = mean([Soft(ROWS, CONTROL), Soft(3 * ROWS, -CONTROL)])
    np.testing.assert_allclose(found.vectors, 2 * ROWS, rtol=1e-6)
    assert not found.control.any()
    assert mean([Soft(ROWS)]).control is None
