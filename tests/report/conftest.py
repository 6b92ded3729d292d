from pathlib import Path

import pytest
from report_fabric import Fabric


@pytest.fixture
def fabric(tmp_path: Path) -> Fabric:
    return Fabric(tmp_path)
