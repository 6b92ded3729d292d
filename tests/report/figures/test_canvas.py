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


def test_looks_differ_without_colour() -> None:
    looks = [look(number) for number in range(12)]
    assert len({(each["linestyle"], each["marker"]) for each in looks}) == 12
    assert all(each["color"] == "black" or 0 < float(each["color"]) < 0.6 for each in looks)
