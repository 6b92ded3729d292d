"""What only a later stage would find out, said before anything is computed or submitted."""

from __future__ import annotations

from pipeline.config import Experiment, Prepare
from pipeline.config.chain import upstream
from pipeline.data.headers import check_headers
from pipeline.report.pairs import check_choices


def refuse_mistakes(experiment: Experiment) -> None:
    """Refuses an experiment whose table could not be made, or whose files do not have its columns.

    Raises:
        InputError: see :func:`pipeline.report.pairs.check_choices` and :func:`pipeline.data.headers.check_headers`.

    """
    check_choices(experiment)
    prepared = (one for cell in experiment.computed.values() for one in upstream(cell) if isinstance(one, Prepare))
    for task in {prepare.task.model_dump_json(): prepare.task for prepare in prepared}.values():
        check_headers(task)
