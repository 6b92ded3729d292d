"""A set and its card on the hub, as a dataset repository."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pipeline.data.hub import explained
from pipeline.errors import InputError
from pipeline.report.card.facts import Facts, card_path


def files_of(file: Path, facts: Facts) -> dict[str, Path]:
    """Name in the repository -> local file; the set is called what its card calls it."""
    return {facts.file: file, "README.md": card_path(file)}


def problems(repo: str, card: Path) -> list[str]:
    """What the hub would refuse, as far as that can be said without asking it: the id, the front matter.

    Raises:
        InputError: the id is not one of a repository.

    """
    from huggingface_hub import DatasetCard, DatasetCardData
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.repocard_data import model_index_to_eval_results
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"{repo}: not a repository's id ({error}); give OWNER/NAME") from error
    if "/" not in repo:
        raise InputError(f"{repo}: not a repository's id; give OWNER/NAME")
    found = []
    try:
        data = DatasetCard(card.read_text()).data
        assert isinstance(data, DatasetCardData)
        model_index_to_eval_results(data.to_dict()["model-index"])
    except (ValueError, KeyError, TypeError) as error:
        return [f"front matter: {' '.join(str(error).split())}"]
    if data.license in (None, "unknown"):
        found.append("license: unknown; say which: python -m pipeline card FILE --license mit")
    if data.language in (None, "und", ["und"]):
        found.append("language: not stated; say which: python -m pipeline card FILE --language en")
    return found


def upload(repo: str, files: Mapping[str, Path], *, private: bool) -> str:
    """Creates the dataset repository where it is not there, and adds the files in one commit; returns its address.

    Raises:
        InputError: the hub refused, or cannot be reached.

    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=os.environ.get("HF_TOKEN"))
    with tempfile.TemporaryDirectory() as folder:
        for name, path in files.items():
            shutil.copyfile(path, Path(folder) / name)
        try:
            with explained("dataset", repo):
                api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
                done = api.upload_folder(
                    repo_id=repo, repo_type="dataset", folder_path=folder, commit_message="Distilled set and its card"
                )
        except (HfHubHTTPError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"hub dataset {repo}: refused ({reason}); is HF_TOKEN one that may write?") from error
    return str(done.commit_url)
