import os
import subprocess
import sys

import pytest

from haf_utils.io import third_party


def test_clap_is_imported_without_what_it_does_not_need():
    """laion-clap's package imports timm and wandb, which takes seconds, and sets numba's cache to /tmp/, where every
    user of a machine may write."""
    code = """
import os, sys
from haf_utils.io.third_party import clap_networks
clap_networks()
assert not {"clap_module", "laion_clap", "timm", "wandb", "sklearn"} & set(sys.modules), sorted(sys.modules)
assert "NUMBA_CACHE_DIR" not in os.environ
"""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_missing_package_is_named_with_what_to_do(monkeypatch):
    third_party.hear21passt.cache_clear()
    monkeypatch.setattr(third_party.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps hear21passt"):
        third_party.hear21passt()
