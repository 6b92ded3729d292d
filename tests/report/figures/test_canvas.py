import pytest
from matplotlib.figure import Figure

from pipeline.report.figures.canvas import label_on_the_right, look


def test_labels_keep_their_distance_and_stay_near() -> None:
    panel = Figure().subplots()
    panel.set_ylim(0, 1)
    points = [(1.0, y, name, look(number)) for number, (name, y) in enumerate({"b": 0.5, "a": 0.5, "far": 0.9}.items())]
    label_on_the_right(panel, points)
    at = {text.get_text(): text.get_position()[1] for text in panel.texts if text.get_text()}
    assert at["far"] == pytest.approx(0.9), "in nobody's way"
    assert (at["a"] + at["b"]) / 2 == pytest.approx(0.5), "about their points"
    assert abs(at["a"] - at["b"]) == pytest.approx(0.066)
    assert panel.get_ylim() == (0, 1)


def test_long_labels_take_two_lines_and_their_room() -> None:
    panel = Figure().subplots()
    panel.set_ylim(0, 1)
    long = "RaT-BPTT (W 40, T 100, soft labels) + Boost, β = 0 (balanced batches)  88.6"
    label_on_the_right(panel, [(1.0, 0.5, long, look(0)), (1.0, 0.5, "random real", look(1))])
    at = {text.get_text(): text.get_position()[1] for text in panel.texts if text.get_text()}
    (folded,) = (name for name in at if name != "random real")
    assert folded.replace("\n", " ") == long
    assert folded.count("\n") == 1
    assert abs(at[folded] - at["random real"]) == pytest.approx(1.5 * 0.066)


def test_looks_differ_without_colour() -> None:
    looks = [look(number) for number in range(12)]
    assert len({(each["linestyle"], each["marker"]) for each in looks}) == 12
    assert all(each["color"] == "black" or 0 < float(each["color"]) < 0.6 for each in looks)
