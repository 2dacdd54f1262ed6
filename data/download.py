"""Fetch the real datasets and checkpoints, checked and unpacked, into the folders that the loaders read.

    python data/download.py bsd10k                              # all of BSD10k-v1.2
    python data/download.py bsd10k --only metadata,features     # the laptop path: no audio, a few hundred megabytes
    python data/download.py fsd50k --to /scratch/me/fsd50k
    python data/download.py nsynth --only valid,test
    python data/download.py clap                                # LAION-CLAP 630k and the RoBERTa tokenizer

An interrupted download goes on where it stopped; run again, it does nothing. download.json, beside the data, holds what
the source states of each file (address, size, checksum) and which files are finished.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import requests
from filelock import FileLock, Timeout
from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
from transfer.fetch import RemoteFile, check_space, fetch, file_digest
from transfer.unpack import unpack

from haf_utils.io.files import remove_leftovers, writable, write_json
from haf_utils.io.progress import FORESEEABLE, adapt
from haf_utils.profiles import REPOSITORY

ZENODO = "https://zenodo.org"
RECORDS = {"bsd10k": 19868804, "bsd35k-cs": 19187100, "evaluation": 20442928, "fsd50k": 4060432}
NSYNTH = "http://download.magenta.tensorflow.org/datasets/nsynth"
HUB_FILES = {  # group -> (repository on the hub, files)
    "630k": ("lukewys/laion_clap", ("630k-best.pt",)),
    "630k-audioset": ("lukewys/laion_clap", ("630k-audioset-best.pt",)),
    "tokenizer": (
        "FacebookAI/roberta-base",
        ("config.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "vocab.json"),
    ),
}
PASST = "https://github.com/kkoutini/PaSST/releases/download/v0.0.1-audioset/passt-s-f128-p16-s10-ap.476-swa.pt"
PASST_SIZE = 344_665_734  # bytes; as the SHA-256 below stated by several public projects, not by PaSST's own page
PASST_SHA256 = "302903fa8c4aee817b11dc982da0b29aaf8d11a3e722420476d0a12c9db70c2c"
NAMES = (*RECORDS, "nsynth", "clap", "passt")

UNPACKED = 1.75  # ours: unpacked bytes a packed byte, estimated high; archives of 16-bit audio shrink to 0.6 or more


# What there is to fetch -----------------------------------------------------------------------------------------------


def zenodo_files(record: int) -> list[RemoteFile]:
    """The files of a Zenodo record, as its API states them now."""
    answer = requests.get(url := f"{ZENODO}/api/records/{record}", timeout=60)
    answer.raise_for_status()
    try:
        files = answer.json()["files"]
        return [RemoteFile(f["key"], f["links"]["self"], int(f["size"]), str(f["checksum"] or "")) for f in files]
    except (KeyError, TypeError, requests.JSONDecodeError) as error:
        raise ValueError(
            f"{url} answers without a list of files ({error!r}): Zenodo may be down, or a proxy answers "
            "in its place; try again later"
        ) from error


def nsynth_files() -> list[RemoteFile]:
    """NSynth's three archives. The site states sizes, and MD5 sums in the header that Google's storage adds."""
    files = []
    for split in ("train", "valid", "test"):
        name = f"nsynth-{split}.jsonwav.tar.gz"
        answer = requests.head(f"{NSYNTH}/{name}", timeout=60, allow_redirects=True)
        answer.raise_for_status()
        md5 = re.search(r"md5=([\w+/]+=*)", answer.headers.get("x-goog-hash", ""))
        checksum = f"md5:{base64.b64decode(md5[1]).hex()}" if md5 else ""
        if not (size := answer.headers.get("Content-Length", "")).isdigit():
            raise ValueError(f"{NSYNTH}/{name}: the answer states no size: a proxy may answer in its place")
        files.append(RemoteFile(name, f"{NSYNTH}/{name}", int(size), checksum))
    return files


def select(files: Iterable[RemoteFile], only: Iterable[str]) -> list[RemoteFile]:
    """The archives whose groups are named, and every file that is no archive (a README); all where none is named."""
    files, only = list(files), set(only)
    groups = {file.group for file in files if file.group}
    if only - groups:
        raise ValueError(f"--only {','.join(sorted(only - groups))}: there is only {', '.join(sorted(groups))}")
    return [file for file in files if not only or not file.group or file.group in only]


# The commands ---------------------------------------------------------------------------------------------------------


def download(name: str, folder: Path, only: Iterable[str] = (), keep: bool = False) -> None:
    """Fetch and unpack a dataset of Zenodo or NSynth; what download.json says is finished is left alone."""
    if folder.is_dir():
        remove_leftovers(folder)
    stated, done, kept = _read_state(folder)
    keep |= kept
    if not keep:  # a kill or an error may have come between
        _remove_archives(folder, done)
    pending = [file for file in select(stated, only) if file not in done] if stated else None
    if pending == []:
        print(f"{folder}: everything is there")
        return
    stated = nsynth_files() if name == "nsynth" else zenodo_files(RECORDS[name])
    known, done = done, [file for file in done if file in stated]
    pending = [file for file in select(stated, only) if file not in done]
    ours = {file.folder for file in known}
    for file in pending:
        if file.folder and (folder / file.folder).exists():
            whose = "holds what the source had before" if file.folder in ours else "was not put there by this command"
            raise ValueError(f"{folder / file.folder} exists, but {whose}: move it away or choose --to")
    _say_and_check(folder, pending, keep)
    try:
        with FileLock(writable(folder) / ".download.lock", timeout=0):
            _download(folder, stated, done, pending, keep)
    except Timeout:
        raise OSError(f"another process is downloading into {folder}") from None
    print(f"{folder}: complete")


def _download(
    folder: Path, stated: list[RemoteFile], done: list[RemoteFile], pending: list[RemoteFile], keep: bool
) -> None:
    _write_state(folder, stated, done, keep)
    for target in dict.fromkeys(file.folder for file in pending):
        files = [file for file in pending if file.folder == target]
        paths = [fetch(file, folder) for file in files]
        done = done + files
        # Before the folder gets its name: what is noted and absent is not there yet, so that no kill parts the two.
        _write_state(folder, stated, done, keep)
        if target:
            unpack(next(path for path in paths if path.suffix in (".zip", ".gz")), folder, target)
        if not keep:
            _remove_archives(folder, files)


def _remove_archives(folder: Path, files: list[RemoteFile]) -> None:
    for file in files:
        if file.folder:
            (folder / file.name).unlink(missing_ok=True)


def _say_and_check(folder: Path, pending: list[RemoteFile], keep: bool) -> None:
    """Say what will be fetched and where, and compare the space at the fullest moment with what is free."""
    archives = {}  # packed bytes of each archive, its parts together
    for file in pending:
        if file.folder:
            archives[file.folder] = archives.get(file.folder, 0) + file.size
    total = sum(file.size for file in pending)
    packed = total if keep else total - sum(archives.values()) + max(archives.values(), default=0)
    here = sum(
        path.stat().st_size
        for file in pending
        for path in (folder / file.name, folder / f"{file.name}.part")
        if path.exists()
    )
    need = packed + UNPACKED * sum(archives.values()) - here
    print(f"{folder}: {len(pending)} files, {total / 1e9:.2f} GB to fetch, about {max(need, 0) / 1e9:.2f} GB of disk")
    for file in pending:
        print(f"  {file.name}  {file.size / 1e6:.1f} MB  {file.checksum or 'the source states no checksum'}")
    check_space(folder, need)


def _read_state(folder: Path) -> tuple[list[RemoteFile], list[RemoteFile], bool]:
    """What the source stated at the last run, which of it is finished and still in place, and whether archives stay."""
    path = folder / "download.json"
    if not path.exists():
        return [], [], False
    try:
        content = json.loads(path.read_text("utf-8"))
        rows, kept = content["files"], content.get("keep", True)  # unknown of older versions
        finished = [row.pop("done") for row in rows]
        stated = [RemoteFile(**row) for row in rows]
    except (AttributeError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): move it and the folders beside it away and run the command again"
        ) from error
    done = [f for f, ready in zip(stated, finished, strict=True) if ready and (folder / (f.folder or f.name)).exists()]
    return stated, done, kept


def _write_state(folder: Path, stated: list[RemoteFile], done: list[RemoteFile], keep: bool) -> None:
    rows = [asdict(file) | {"done": file in done} for file in stated]
    write_json(folder / "download.json", {"files": rows, "keep": keep})


def download_clap(folder: Path | None, only: Iterable[str] = ()) -> list[Path]:
    """Fetch LAION-CLAP checkpoints and the RoBERTa tokenizer from the hub, into its cache or into `folder`.

    Large files are compared with the SHA-256 that the hub states. Returns their paths.
    """
    only = list(only) or ["630k"]
    if unknown := set(only) - set(HUB_FILES):
        raise ValueError(f"--only {','.join(sorted(unknown))}: there is only {', '.join(HUB_FILES)}")
    paths = []
    for repository, names in (HUB_FILES[group] for group in dict.fromkeys([*only, "tokenizer"])):
        for name in names:
            plan = hf_hub_download(repository, name, local_dir=folder, dry_run=True)
            if plan.will_download:
                check_space(Path(plan.local_path), plan.file_size)
            path = Path(hf_hub_download(repository, name, local_dir=folder))
            # The hub's client compares sizes only. For large files it states a SHA-256, as the entity tag.
            stated = (get_hf_file_metadata(hf_hub_url(repository, name)).etag or "") if plan.will_download else ""
            if len(stated) == 64 and (found := file_digest(path, "sha256")) != stated:
                path.resolve().unlink()
                raise ValueError(f"{path}: sha256 is {found} but the hub states {stated}; it was deleted")
            print(path)
            paths.append(path)
    return paths


def download_passt(folder: Path | None) -> Path:
    """Fetch PaSST's official AudioSet weights into torch's cache, where haf_utils.passt looks, or into `folder`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    folder = folder or Path(os.environ.get("TORCH_HOME", cache)).expanduser() / "hub" / "checkpoints"
    file = RemoteFile(PASST.rsplit("/", 1)[1], PASST, PASST_SIZE, f"sha256:{PASST_SHA256}")
    check_space(folder, file.size)
    path = fetch(file, folder)
    print(path)
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python data/download.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=NAMES, help="what to fetch")
    parser.add_argument("--only", default="", help="parts, comma-separated, such as metadata,features or train")
    parser.add_argument("--to", type=Path, help="folder (default: data/downloads/NAME; clap and passt: their caches)")
    parser.add_argument("--keep", action="store_true", help="keep the archives after they are unpacked")
    adapt()
    options = parser.parse_args(arguments)
    options.to = options.to and options.to.expanduser()
    only = [part.strip() for part in options.only.split(",") if part.strip()]
    if only and options.name == "passt":
        parser.error("passt is one file: --only has nothing to choose from")
    try:
        if options.name == "clap":
            download_clap(options.to, only)
        elif options.name == "passt":
            download_passt(options.to)
        else:
            download(options.name, options.to or REPOSITORY / "data" / "downloads" / options.name, only, options.keep)
    except requests.ConnectionError as error:
        where = f" to {error.request.url}" if error.request else ""
        print(f"error: no connection{where}: {error}", file=sys.stderr)
        return 1
    except FORESEEABLE as error:
        # requests and the hub's client need a package more for a SOCKS proxy.
        socks = ": pip install pysocks socksio, or unset ALL_PROXY" if "socks" in str(error).lower() else ""
        print(f"error: {error or type(error).__name__}{socks}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
