"""The downloader against a server on this machine that breaks, lies and attacks."""

import base64
import hashlib
import io
import json
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import download
import pytest
from conftest import REPOSITORY
from hypothesis import given, settings
from hypothesis import strategies as st
from transfer.fetch import RemoteFile, fetch
from transfer.split_zip import open_zip, parts_of
from transfer.unpack import unpack

CLIPS = {f"audio/{number}.wav": random.Random(number).randbytes(40_000) for number in range(5)}
METADATA = {"metadata/BSD10k_metadata.csv": b"sound_id,class\n1,fx-o\n", "metadata/BST_description.csv": b"class_key\n"}
FEATURES = {f"clap_audio_embeddings/{number}.npy": bytes([number]) * 2048 for number in range(3)}


class Site:
    """A web site in memory. `cut`: bytes after which a connection breaks; `broken`: requests answered with 503."""

    def __init__(self):
        self.files, self.headers = {}, {}
        self.cut, self.broken, self.ranges = None, 0, True
        self.log = []  # (method, path, Range header)
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                site.log.append((self.command, self.path, self.headers.get("Range")))
                if site.broken:
                    site.broken -= 1
                    return self.send_error(503)
                if self.path not in site.files:
                    return self.send_error(404)
                body, start = site.files[self.path], 0
                if site.ranges and (asked := self.headers.get("Range")):
                    start = int(asked.removeprefix("bytes=").split("-")[0])
                    if start >= len(body):
                        return self.send_error(416)
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
                else:
                    self.send_response(200)
                for name, value in site.headers.get(self.path, {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                if self.command == "GET":
                    cut = len(body) if site.cut is None else start + site.cut
                    self.wfile.write(body[start:cut])
                    self.close_connection = True

            do_HEAD = do_GET

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def add_record(self, number: int, files: dict[str, bytes], **lies) -> None:
        """A Zenodo record; `lies` replaces what the API states: lies={"audio.zip": {"size": 1}}."""
        rows = []
        for name, body in files.items():
            path = f"/api/records/{number}/files/{name}/content"
            self.files[path] = body
            row = {"key": name, "size": len(body), "checksum": f"md5:{hashlib.md5(body).hexdigest()}"}
            rows.append(row | {"links": {"self": self.url + path}} | lies.get("lies", {}).get(name, {}))
        self.files[f"/api/records/{number}"] = json.dumps({"id": number, "files": rows}).encode()


def zipped(members: dict[str, bytes], compression=zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, compression)  # of 1980: the same bytes at any time
    return out.getvalue()


def tarred(members: dict[str, bytes | tarfile.TarInfo]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            body = b"" if isinstance(content, tarfile.TarInfo) else content
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


def remote(site: Site, path: str, **changes) -> RemoteFile:
    body = site.files[path]
    stated = {"size": len(body), "checksum": f"md5:{hashlib.md5(body).hexdigest()}"} | changes
    return RemoteFile(path.rsplit("/", 1)[1], site.url + path, **stated)


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    site = Site()
    monkeypatch.setattr(download, "ZENODO", site.url)
    monkeypatch.setattr(download, "NSYNTH", site.url)
    yield site
    site.server.shutdown()
    site.server.server_close()


@pytest.fixture
def bsd10k(site):
    files = {
        "README.md": b"# BSD10k\n",
        "metadata.zip": zipped(METADATA),
        "features.zip": zipped(FEATURES),
        "audio.zip": zipped({f"BSD10k-v1.2/{name}": body for name, body in CLIPS.items()}),
    }
    site.add_record(download.RECORDS["bsd10k"], files)
    return site


# The command as a whole -----------------------------------------------------------------------------------------------


def test_laptop_path_then_the_rest_then_nothing(bsd10k, tmp_path, capsys):
    folder = tmp_path / "bsd10k"
    arguments = ["bsd10k", "--to", str(folder)]
    assert download.main([*arguments, "--only", "metadata,features"]) == 0
    expected = METADATA | {f"features/{name}": body for name, body in FEATURES.items()} | {"README.md": b"# BSD10k\n"}
    found = contents(folder)
    state = json.loads(found.pop("download.json"))
    found.pop(".download.lock")
    assert found == expected, "archives are gone, folders are where the loaders look"
    assert {row["name"] for row in state["files"] if row["done"]} == {"README.md", "metadata.zip", "features.zip"}
    assert all(row["checksum"].startswith("md5:") and row["size"] > 0 for row in state["files"])

    bsd10k.log.clear()
    assert download.main(arguments) == 0
    assert [path for _, path, _ in bsd10k.log if "/files/" in path] == [
        f"/api/records/{download.RECORDS['bsd10k']}/files/audio.zip/content"
    ], "only what was missing is fetched"
    assert {name: body for name, body in contents(folder).items() if name.startswith("audio")} == CLIPS

    bsd10k.log.clear()
    capsys.readouterr()
    assert download.main(arguments) == 0
    assert bsd10k.log == [], "run again, it does not even ask"
    assert "everything is there" in capsys.readouterr().out

    shutil.rmtree(folder / "metadata")  # what is no longer there is fetched again
    assert download.main(arguments) == 0
    assert (folder / "metadata" / "BST_description.csv").exists()


def test_unknown_part_and_foreign_folder(bsd10k, tmp_path, capsys):
    assert download.main(["bsd10k", "--to", str(tmp_path), "--only", "metdata"]) == 1
    assert "metdata: there is only audio, features, metadata" in capsys.readouterr().err
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "mine.wav").write_bytes(b"precious")
    assert download.main(["bsd10k", "--to", str(tmp_path)]) == 1
    assert "was not put there by this command" in capsys.readouterr().err
    assert (tmp_path / "audio" / "mine.wav").read_bytes() == b"precious"
    with pytest.raises(SystemExit):
        download.main(["passt", "--only", "audio"])


def test_keep_leaves_the_archives(bsd10k, tmp_path):
    assert download.main(["bsd10k", "--to", str(tmp_path), "--only", "metadata", "--keep"]) == 0
    assert (tmp_path / "metadata.zip").exists() and (tmp_path / "metadata" / "BST_description.csv").exists()
    assert download.main(["bsd10k", "--to", str(tmp_path)]) == 0
    assert (tmp_path / "metadata.zip").exists(), "who kept archives keeps them"


def test_a_kill_right_after_a_folder_has_its_name_blocks_nothing(bsd10k, tmp_path, monkeypatch):
    def die(*arguments):
        unpack(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "unpack", die)
        assert download.main(["bsd10k", "--to", str(tmp_path)]) == 130
    assert list(tmp_path.glob("*.zip"))
    assert download.main(["bsd10k", "--to", str(tmp_path)]) == 0 and not list(tmp_path.glob("*.zip"))


@pytest.mark.parametrize("page", [b"<html>down</html>", b"[]", b'{"message": "busy"}', b'{"files": [{"key": "a"}]}'])
def test_an_answer_that_is_no_list_of_files_is_a_sentence(bsd10k, tmp_path, capsys, page):
    bsd10k.files[f"/api/records/{download.RECORDS['bsd10k']}"] = page
    assert download.main(["bsd10k", "--to", str(tmp_path)]) == 1
    assert "answers without a list of files" in capsys.readouterr().err


def test_a_proxy_that_needs_a_package_is_said(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed")

    monkeypatch.setattr(download, "hf_hub_download", refuse)
    assert download.main(["clap"]) == 1 and "pip install pysocks socksio" in capsys.readouterr().err


def test_too_large_for_the_disk_fetches_nothing(site, tmp_path, capsys):
    lies = {"audio.zip": {"size": 10**15}}
    site.add_record(download.RECORDS["bsd10k"], {"audio.zip": zipped(CLIPS), "README.md": b"x"}, lies=lies)
    assert download.main(["bsd10k", "--to", str(tmp_path / "new")]) == 1
    assert "GB needed" in capsys.readouterr().err
    assert all("/files/" not in path for _, path, _ in site.log)
    assert not (tmp_path / "new").exists()


def test_lying_checksum_is_refused_and_the_file_deleted(site, tmp_path, capsys):
    lies = {"audio.zip": {"checksum": "md5:" + "0" * 32}}
    site.add_record(download.RECORDS["bsd10k"], {"audio.zip": zipped(CLIPS)}, lies=lies)
    assert download.main(["bsd10k", "--to", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "0" * 32 in error and hashlib.md5(zipped(CLIPS)).hexdigest() in error and "audio.zip" in error
    assert set(contents(tmp_path)) <= {"download.json", ".download.lock"}
    site.add_record(download.RECORDS["bsd10k"], {"audio.zip": zipped(CLIPS)})  # the source mends it
    assert download.main(["bsd10k", "--to", str(tmp_path)]) == 0


def test_no_network_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(download, "ZENODO", "http://127.0.0.1:9")
    assert download.main(["bsd10k", "--to", str(tmp_path)]) == 1
    assert "no connection to http://127.0.0.1:9" in capsys.readouterr().err


def test_damaged_state_is_named(bsd10k, tmp_path, capsys):
    (tmp_path / "download.json").write_text('{"files": [{"name"')
    assert download.main(["bsd10k", "--to", str(tmp_path)]) == 1
    assert "download.json is damaged" in capsys.readouterr().err


def test_second_process_is_refused(bsd10k, tmp_path, capsys):
    with download.FileLock(tmp_path / ".download.lock"):
        assert download.main(["bsd10k", "--to", str(tmp_path)]) == 1
    assert "another process" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../evil.zip", "a/b.zip", "...zip", "..", "a\\b.zip"])
def test_names_that_are_paths_are_refused(name):
    with pytest.raises(ValueError, match="not a plain file name"):
        RemoteFile(name, "http://x", 1, "")


def test_nsynth_with_the_md5_of_its_storage(site, tmp_path):
    for split in ("train", "valid", "test"):
        members = {f"nsynth-{split}/examples.json": b"{}", f"nsynth-{split}/audio/a_b_000-060-100.wav": b"RIFF" * 99}
        body = tarred(members)
        path = f"/nsynth-{split}.jsonwav.tar.gz"
        site.files[path] = body
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        site.headers[path] = {"x-goog-hash": f"crc32c=AAAAAA==, md5={md5}"}
    assert download.main(["nsynth", "--to", str(tmp_path), "--only", "valid,test"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["nsynth-test", "nsynth-valid"]
    assert (tmp_path / "nsynth-valid" / "audio" / "a_b_000-060-100.wav").read_bytes() == b"RIFF" * 99
    site.headers["/nsynth-train.jsonwav.tar.gz"] = {"x-goog-hash": f"md5={base64.b64encode(bytes(16)).decode()}"}
    assert download.main(["nsynth", "--to", str(tmp_path)]) == 1


def test_fsd50k_split_archive_end_to_end(site, tmp_path):
    clips = {f"FSD50K.eval_audio/{name[6:]}": body for name, body in CLIPS.items()}
    parts = split(zipped(clips), 64_000)
    files = {f"FSD50K.eval_audio.z{number + 1:02d}": part for number, part in enumerate(parts[:-1])}
    files["FSD50K.eval_audio.zip"] = parts[-1]
    files["FSD50K.ground_truth.zip"] = zipped({"FSD50K.ground_truth/dev.csv": b"fname,labels,mids,split\n"})
    site.add_record(download.RECORDS["fsd50k"], files)
    site.cut = 30_000
    assert download.main(["fsd50k", "--to", str(tmp_path), "--only", "eval_audio"]) == 0
    assert {n: b for n, b in contents(tmp_path).items() if n.startswith("FSD50K")} == clips
    assert download.main(["fsd50k", "--to", str(tmp_path)]) == 0
    assert (tmp_path / "FSD50K.ground_truth" / "dev.csv").exists()


def test_clap_from_the_hub_with_its_sha256(site, tmp_path):
    """The command in a process of its own, because the hub's address is read when its client is imported."""
    for group in ("630k", "tokenizer"):
        repository, names = download.HUB_FILES[group]
        for name in names:
            body = f"{repository}/{name}".encode() * 1000
            path = f"/{repository}/resolve/main/{name}"
            site.files[path] = site.files[path.replace("main", "0" * 40)] = body
            etag = hashlib.sha256(body).hexdigest() if group == "630k" else hashlib.sha1(body).hexdigest()
            site.headers[path] = {"X-Repo-Commit": "0" * 40, "ETag": f'"{etag}"'}
    environment = os.environ | {"HF_ENDPOINT": site.url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0"}

    def run(*arguments):
        command = [sys.executable, str(REPOSITORY / "data" / "download.py"), "clap", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    first = run()
    assert first.returncode == 0, first.stderr
    paths = first.stdout.split()
    assert len(paths) == 6 and paths[0].endswith("630k-best.pt")
    assert open(paths[0], "rb").read() == b"lukewys/laion_clap/630k-best.pt" * 1000
    environment["HF_ENDPOINT"] = "http://127.0.0.1:9"  # everything is in the cache: no network is needed
    again = run()
    assert again.returncode == 0 and again.stdout == first.stdout, again.stderr
    environment["HF_ENDPOINT"] = site.url

    path = "/lukewys/laion_clap/resolve/main/630k-best.pt"
    site.files[path] = b"tampered"
    site.headers[path] = {"X-Repo-Commit": "1" * 40, "ETag": f'"{"1" * 64}"'}
    lied = run("--to", str(tmp_path / "here"))
    assert lied.returncode == 1 and "but the hub states " + "1" * 64 in lied.stderr
    assert not (tmp_path / "here" / "630k-best.pt").exists()
    assert "there is only 630k, 630k-audioset" in run("--only", "music").stderr


def test_passt_goes_to_the_cache_of_torch(site, tmp_path, monkeypatch, capsys):
    body = random.Random(0).randbytes(5000)
    site.files["/passt.pt"] = body
    monkeypatch.setattr(download, "PASST", f"{site.url}/passt.pt")
    monkeypatch.setattr(download, "PASST_SIZE", len(body))
    monkeypatch.setattr(download, "PASST_SHA256", hashlib.sha256(body).hexdigest())
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert download.main(["passt"]) == 0
    assert (tmp_path / "hub" / "checkpoints" / "passt.pt").read_bytes() == body


# Fetching one file ----------------------------------------------------------------------------------------------------


def test_cut_connections_are_resumed_where_they_broke(site, tmp_path):
    site.files["/a.bin"] = random.Random(0).randbytes(100_000)
    site.cut = 30_000
    path = fetch(remote(site, "/a.bin"), tmp_path, pause=0)
    assert path.read_bytes() == site.files["/a.bin"]
    assert [asked for _, _, asked in site.log] == [None, "bytes=30000-", "bytes=60000-", "bytes=90000-"]


def test_gives_up_keeps_what_it_has_and_goes_on_next_time(site, tmp_path):
    site.files["/a.bin"] = random.Random(0).randbytes(100_000)
    site.cut = 30_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(site, "files", {**site.files})
        fetch_once = remote(site, "/a.bin")
        site.cut = 0
        (tmp_path / "a.bin.part").write_bytes(site.files["/a.bin"][:45_000])
        with pytest.raises(OSError, match="tried 3 times. Run the command again"):
            fetch(fetch_once, tmp_path, attempts=3, pause=0)
    assert (tmp_path / "a.bin.part").stat().st_size == 45_000 and not (tmp_path / "a.bin").exists()
    site.cut = None
    site.log.clear()
    assert fetch(fetch_once, tmp_path).read_bytes() == site.files["/a.bin"]
    assert site.log == [("GET", "/a.bin", "bytes=45000-")]


def test_server_that_cannot_resume(site, tmp_path):
    site.files["/a.bin"] = random.Random(0).randbytes(10_000)
    site.ranges = False
    (tmp_path / "a.bin.part").write_bytes(b"x" * 4000)
    assert fetch(remote(site, "/a.bin"), tmp_path).read_bytes() == site.files["/a.bin"]


def test_unavailable_server_is_tried_again_but_not_a_missing_file(site, tmp_path):
    site.files["/a.bin"] = b"abc"
    site.broken = 3
    assert fetch(remote(site, "/a.bin"), tmp_path, pause=0).read_bytes() == b"abc"
    missing = RemoteFile("b.bin", f"{site.url}/b.bin", 3, "")
    site.log.clear()
    with pytest.raises(OSError, match="404.*b.bin"):
        fetch(missing, tmp_path, pause=0)
    assert len(site.log) == 1


def test_longer_than_stated(site, tmp_path):
    site.files["/a.bin"] = b"abcdef"
    with pytest.raises(ValueError, match="longer than the 3 bytes"):
        fetch(remote(site, "/a.bin", size=3), tmp_path)
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize("there", [b"abcdeX", b"my own notes", b""])
def test_a_file_of_the_name_that_is_another_is_kept_and_named(site, tmp_path, there):
    site.files["/a.bin"] = b"abcdef"
    (tmp_path / "a.bin").write_bytes(there)
    with pytest.raises(ValueError, match="a.bin exists and is not what the source states now: move it away"):
        fetch(remote(site, "/a.bin"), tmp_path)
    assert (tmp_path / "a.bin").read_bytes() == there and not site.log
    (tmp_path / "a.bin").write_bytes(b"abcdef")
    assert fetch(remote(site, "/a.bin"), tmp_path) == tmp_path / "a.bin" and not site.log


def test_part_longer_than_the_file_is_thrown_away(site, tmp_path):
    site.files["/a.bin"] = b"abcdef"
    (tmp_path / "a.bin.part").write_bytes(b"x" * 99)
    assert fetch(remote(site, "/a.bin"), tmp_path).read_bytes() == b"abcdef"


# Unpacking ------------------------------------------------------------------------------------------------------------


def zip_with_link(target: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        info = zipfile.ZipInfo("audio/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, target)
        archive.writestr("audio/link/passwd", "x")
    return out.getvalue()


def tar_link(kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo("audio/link")
    info.type, info.linkname = kind, target
    return info


ATTACKS = {
    "up.zip": zipped({"audio/ok.wav": b"1", "../evil": b"2"}),
    "inner.zip": zipped({"audio/../../evil": b"2"}),
    "absolute.zip": zipped({"/etc/evil": b"2"}),
    "backslash.zip": zipped({"..\\evil": b"2"}),
    "drive.zip": zipped({"C:\\evil": b"2"}),
    "link.zip": zip_with_link("/etc"),
    "up.tar.gz": tarred({"audio/ok.wav": b"1", "../evil": b"2"}),
    "absolute.tar.gz": tarred({"/etc/evil": b"2"}),
    "symlink.tar.gz": tarred({"s": tar_link(tarfile.SYMTYPE, "/etc"), "audio/link/passwd": b"x"}),
    "hardlink.tar.gz": tarred({"h": tar_link(tarfile.LNKTYPE, "/etc/passwd")}),
    "device.tar.gz": tarred({"d": tar_link(tarfile.CHRTYPE, "")}),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_escapes(name, tmp_path):
    folder = tmp_path / "outer" / "data"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(ATTACKS[name])
    with pytest.raises(ValueError, match="refused, nothing was unpacked"):
        unpack(folder / name, folder, "audio")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [folder / name]
    assert not (folder / "audio").exists() and not (folder / "audio.unpacking").exists()


@pytest.mark.parametrize("wrap", ["", "audio/", "BSD10k-v1.2/audio/", "./audio/"])
@pytest.mark.parametrize("form", ["zip", "tar.gz"])
def test_unpacks_to_the_same_place_however_it_is_wrapped(wrap, form, tmp_path):
    members = {f"{wrap}1.wav": b"one", f"{wrap}deep/2.wav": b"two", "__MACOSX/._1.wav": b"junk"}
    if form == "tar.gz":
        del members["__MACOSX/._1.wav"]
    archive = tmp_path / f"audio.{form}"
    archive.write_bytes(zipped(members) if form == "zip" else tarred(members))
    (tmp_path / "audio.unpacking").mkdir()  # left by a run that was killed
    (tmp_path / "audio.unpacking" / "half.wav").write_bytes(b"ha")
    unpack(archive, tmp_path, "audio")
    assert contents(tmp_path / "audio") == {"1.wav": b"one", "deep/2.wav": b"two"}


def test_damaged_archives_are_named(tmp_path):
    body = bytearray(zipped(CLIPS))
    body[200] ^= 1  # inside the first clip: its CRC no longer fits
    whole = tarred({name: body for name, body in CLIPS.items()})
    damaged = {"crc.zip": bytes(body), "text.zip": b"<html>not found</html>", "half.tar.gz": whole[: len(whole) // 2]}
    damaged["flipped.tar.gz"] = whole[:5000] + bytes([whole[5000] ^ 255]) + whole[5001:]
    for name, bad in damaged.items():
        (tmp_path / name).write_bytes(bad)
        with pytest.raises(ValueError, match=rf"{name} cannot be unpacked"):
            unpack(tmp_path / name, tmp_path, "audio")
    assert not (tmp_path / "audio").exists()


def test_archive_that_unpacks_to_more_than_the_disk(tmp_path, monkeypatch):
    (tmp_path / "audio.zip").write_bytes(zipped({"audio/zeros": bytes(1_000_000)}, zipfile.ZIP_DEFLATED))
    usage = shutil.disk_usage(tmp_path)._replace(free=999_999)
    monkeypatch.setattr("transfer.fetch.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="GB needed"):
        unpack(tmp_path / "audio.zip", tmp_path, "audio")


# Split archives -------------------------------------------------------------------------------------------------------


def split(whole: bytes, size: int, wide: bool = False) -> list[bytes]:
    """What `zip -s` makes: a marker, then parts of `size` bytes whose directory counts offsets from each part's start.

    `wide`: also with the Zip64 records that a large archive has.
    """
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        infos, directory_start = archive.infolist(), archive.start_dir
    stream = b"PK\7\x08" + whole[:directory_start]
    directory = b""
    for info in infos:
        part, offset = divmod(info.header_offset + 4, size)
        name, extra = info.filename.encode(), b"\x99\x99\2\0ab"  # an extra field that must survive
        sizes = (info.compress_size, info.file_size)
        if wide:
            extra += struct.pack("<2H3QI", 1, 28, sizes[1], sizes[0], offset, part)
            sizes, offset, part = (0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFF, 0xFFFF
        header = struct.pack("<4s6H", b"PK\1\2", 20, 20, info.flag_bits, info.compress_type, 0, 33)
        header += struct.pack("<3I", info.CRC, *sizes)
        header += struct.pack("<5H2I", len(name), len(extra), 3, part, 0, info.external_attr, offset)
        directory += header + name + extra + b"abc"
    first, offset = divmod(len(stream), size)
    stream += directory
    count, length = len(infos), len(directory)
    if wide:
        end_part, end_offset = divmod(len(stream), size)
        last = (len(stream) + 56 + 20 + 22 - 1) // size
        stream += struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, last, first, count, count, length, offset)
        stream += struct.pack("<4sIQI", b"PK\6\7", end_part, end_offset, last + 1)
        count, length, offset, first = 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFF
    last = (len(stream) + 22 - 1) // size
    stream += struct.pack("<4s4H2IH", b"PK\5\6", last if not wide else 0xFFFF, first, count, count, length, offset, 0)
    return [stream[start : start + size] for start in range(0, len(stream), size)]


def write_parts(folder, parts: list[bytes]):
    for number, part in enumerate(parts[:-1]):
        (folder / f"x.z{number + 1:02d}").write_bytes(part)
    (folder / "x.zip").write_bytes(parts[-1])
    return folder / "x.zip"


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=8),
    size=st.integers(40, 4000),
    wide=st.booleans(),
    compression=st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
)
def test_split_archives_of_any_shape(tmp_path_factory, lengths, size, wide, compression):
    """Parts may end anywhere: inside a clip, inside the directory, inside the end records."""
    members = {f"clips/é{n}.wav": random.Random(n).randbytes(length) for n, length in enumerate(lengths)}
    folder = tmp_path_factory.mktemp("parts")
    path = write_parts(folder, split(zipped(members, compression), size, wide))
    with open_zip(parts_of(path)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == members


def test_split_archive_made_by_zip(tmp_path):
    if not shutil.which("zip"):
        pytest.skip("the program zip is not installed")
    source = tmp_path / "source" / "FSD50K.dev_audio"
    source.mkdir(parents=True)
    for number in range(12):
        (source / f"{number}.wav").write_bytes(random.Random(number).randbytes(30_000))
    subprocess.run(["zip", "-q", "-r", "-s", "64k", tmp_path / "FSD50K.dev_audio.zip", source.name], cwd=source.parent)
    assert len(parts_of(tmp_path / "FSD50K.dev_audio.zip")) == 6
    unpack(tmp_path / "FSD50K.dev_audio.zip", tmp_path, "FSD50K.dev_audio")
    assert contents(tmp_path / "FSD50K.dev_audio") == contents(source)


def test_split_archive_with_parts_missing_or_damaged(tmp_path):
    path = write_parts(tmp_path, split(zipped(CLIPS), 50_000))
    (tmp_path / "x.z04").rename(tmp_path / "elsewhere")
    with pytest.raises(zipfile.BadZipFile, match="split into 5 parts, 4 are here"), open_zip(parts_of(path)):
        pass
    (tmp_path / "elsewhere").rename(tmp_path / "x.z04")
    (tmp_path / "x.z02").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="x.z02"):
        parts_of(path)
    (tmp_path / "elsewhere").rename(tmp_path / "x.z02")
    path.write_bytes(b"nothing")
    with pytest.raises(zipfile.BadZipFile, match="x.zip: no end of a zip archive"), open_zip(parts_of(path)):
        pass
