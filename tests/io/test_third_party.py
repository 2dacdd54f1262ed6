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


def test_librosa_where_numba_can_write_no_cache(tmp_path):
    """In a container the packages belong to another user, and there is no home: numba then refuses to compile. Its
    search for a folder is cut short here, as root may write everywhere."""
    code = """
import os, stat
import numba
from numba.core import caching
from haf_utils.io.third_party import librosa

def refuse(locator):
    raise OSError("read-only")

caching._CacheLocator.ensure_cache_path = refuse
caching.UserProvidedCacheLocator.ensure_cache_path = lambda locator: None
numba.guvectorize = numba.vectorize = lambda *_, **__: lambda function: function  # compiling takes half a minute
assert len(librosa().filters.mel(sr=8000, n_fft=64, n_mels=4)) == 4
folder = numba.config.CACHE_DIR
assert os.path.dirname(folder) == os.environ["TMPDIR"] and stat.S_IMODE(os.stat(folder).st_mode) == 0o700
"""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | {"TMPDIR": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "set NUMBA_CACHE_DIR" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_what_to_do(monkeypatch):
    third_party.hear21passt.cache_clear()
    monkeypatch.setattr(third_party.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install --no-deps hear21passt"):
        third_party.hear21passt()
