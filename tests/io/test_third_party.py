import subprocess
import sys

import pytest

from haf_utils.io import third_party


def test_importing_laion_clap_leaves_numbas_cache_where_it_was():
    """laion-clap points it at /tmp/, which every user of a machine may write into."""
    code = """
import os, sys
from haf_utils.io.third_party import clap_networks
for value in ("/somewhere", None):
    os.environ.pop("NUMBA_CACHE_DIR", None)
    os.environ.update({} if value is None else {"NUMBA_CACHE_DIR": value})
    clap_networks.cache_clear()
    for name in [name for name in sys.modules if name.startswith("clap_module")]:
        del sys.modules[name]
    clap_networks()
    assert "clap_module.pann_model" in sys.modules
    assert os.environ.get("NUMBA_CACHE_DIR") == value, os.environ["NUMBA_CACHE_DIR"]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_missing_package_is_named_with_what_to_do(monkeypatch):
    third_party.hear21passt.cache_clear()
    monkeypatch.setattr(third_party.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps hear21passt"):
        third_party.hear21passt()
