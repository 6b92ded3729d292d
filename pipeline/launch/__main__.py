"""``python -m pipeline.launch SUBMISSION ARRAY INDEX [--cell K]``: one element of an array, or one of its cells."""

import typer

from pipeline.launch.element import run_element
from pipeline.stopping import guarded


def main(folder: str, array: str, index: int, cell: int | None = None) -> None:
    """Computes what the submission in FOLDER has at INDEX of ARRAY."""
    run_element(folder, array, index, cell)


if __name__ == "__main__":
    guarded(lambda: typer.run(main))
