"""`make test-faults`: kills, errors, delays, damage, hostile input and memory; prints what was tried, handled and lost.

python tests/faults [--kills 25] [--seed 0] [--write]    # --write: also into the table of tests/README.md
"""

import argparse
import errno
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from injection import Ended, Injector, run, start
from scenarios import TESTS, Work, build_store, download, pd, prepare, soundfile, web
from test_checkpoints import hostile, read_pickle, torch

ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT)
AREAS = ("store", "training", "pretraining", "download", "pipeline", "sweep")
FILES = {  # area -> files that are damaged, after the work and in the middle of it
    "store": ("samples.int16", "index.csv"),
    "training": ("predictions.npz", "model.safetensors", "resume.pt"),
    "pretraining": ("resume.pt",),
    "pipeline": ("pipeline.json",),
}


def disturb(name: str, work: Callable, folder: Path, kinds: dict[str, int], rng, say: Callable) -> None:
    """Reference, kills, errors, delays of one area."""
    whole = run(lambda: work(folder / "whole"), Injector(str(folder / "whole")))
    assert whole.how == "done" and whole.count, whole.message
    for kind, number in kinds.items():
        for trial, at in enumerate(rng.choices(range(1, whole.count + 1), k=number)):
            place = folder / f"{kind}-{trial}"
            action = {"kills": "kill", "delays": "delay"}.get(kind, rng.choice(ERRORS))
            other = start(lambda place=place: work(place)) if kind == "delays" else lambda: Ended("sentence")
            ended = [run(lambda place=place: work(place), Injector(str(place), at, action)), other()]
            again = run(lambda place=place: work(place))
            fine = all(e.how == "sentence" or e.result == whole.result for e in ended if e.how != "killed")
            fine &= again.how == "done" and again.result == whole.result and not list(place.rglob(".*@*"))
            say(f"{kind}: {name}", fine, f"operation {at} of {whole.count}, {action}: {ended}, then {again}")
            shutil.rmtree(place, ignore_errors=True)


def damage(name: str, work: Callable, folder: Path, number: int, rng, say: Callable) -> None:
    """Bits flipped, files cut, emptied, zeroed: the same result again, or a sentence that names the file."""
    whole = run(lambda: work(folder / "whole"), Injector(str(folder / "whole")))
    for trial in range(number):
        place = folder / f"damaged-{trial}"
        wanted = FILES[name][trial % len(FILES[name])]
        if wanted == "resume.pt":  # is there in the middle alone
            at = whole.count
            while not list(place.rglob(wanted)):
                shutil.rmtree(place, ignore_errors=True)
                at = rng.randrange(1, whole.count)
                run(lambda place=place: work(place), Injector(str(place), at))
        else:
            run(lambda place=place: work(place))
        file = rng.choice(sorted(place.rglob(wanted)))
        data, how = bytearray(file.read_bytes()), rng.choice(("flip", "cut", "empty", "zero"))
        begin = rng.randrange(len(data))
        if how == "flip":
            data[begin] ^= 1 << rng.randrange(8)
        elif how == "zero":
            data[begin : begin + 9] = bytes(min(9, len(data) - begin))
        file.write_bytes(data[: {"cut": begin, "empty": 0}.get(how, len(data))])
        again = run(lambda place=place: work(place))
        fine = again.result == whole.result or again.how == "sentence" and file.name in again.message
        say(f"damage: {name}", fine, f"{how} of {file.name}: {again}")
        shutil.rmtree(place)


def attack(folder: Path, site, say: Callable) -> None:
    """Archives that climb out, servers that lie, pickles that call."""
    info = web.tarfile.TarInfo
    links = [info("link"), info("hard"), info("pipe")]
    for link, kind in zip(links, (web.tarfile.SYMTYPE, web.tarfile.LNKTYPE, web.tarfile.FIFOTYPE), strict=True):
        link.type, link.linkname = kind, "../x"
    archives = {f"link{n}.tar.gz": web.tarred({"x": link}) for n, link in enumerate(links)}
    for n, name in enumerate(("../x", "/x", "a/../../x", "..\\x", "C:\\x")):
        archives |= {f"{n}.zip": web.zipped({name: b"x"}), f"{n}.tar.gz": web.tarred({name: b"x"})}
    for name, body in archives.items():
        (folder / name).write_bytes(body)
        before = set(folder.rglob("*"))
        ended = run(lambda name=name: web.unpack(folder / name, folder, "target"))
        say("hostile archives", ended.how == "sentence" and set(folder.rglob("*")) == before, f"{name}: {ended}")
    good = {"metadata.zip": web.zipped(web.METADATA)}
    lies = [{"size": 1}, {"size": 10**15}, {"checksum": "md5:" + "0" * 32}, {"checksum": "magic:1"}, {"key": "../x"}]
    lies += [{"key": ".."}, {"links": {}}, {"size": "many"}, {"links": {"self": "gopher://x"}}, {"checksum": 5}]
    pages = [b"<html>", b"[]", b"{}", b'{"files": [1]}', b"", b'{"files": null}']
    record = download.RECORDS["evaluation"]
    for lie in [*lies, *pages]:
        site.add_record(record, good, lies={"metadata.zip": lie} if isinstance(lie, dict) else {})
        if isinstance(lie, bytes):
            site.files[f"/api/records/{record}"] = lie
        place = folder / "served"
        ended = run(lambda place=place: download.main(["evaluation", "--to", str(place)]))
        say("hostile servers", ended.result == 1 and not (folder / "x").exists(), f"{lie}: {ended}")
        shutil.rmtree(place, ignore_errors=True)
    for name, content in hostile(folder / "victim").items():
        torch.save({"state_dict": {"x": content}}, folder / "a.pt")
        ended = run(lambda: read_pickle(folder / "a.pt"))
        say("hostile pickles", ended.how == "sentence" and not (folder / "victim").exists(), f"{name}: {ended}")


def memory(folder: Path, say: Callable) -> None:
    """Of decoding into a store, by length and by number of clips."""
    limit = run(lambda: None).memory + (600 << 20)  # 600 s at 48 kHz are 58 MB in the store and 115 MB as floats
    for seconds, clips in ((600, 1), (120, 5), (1, 600)):
        soundfile.write(folder / f"{seconds}.wav", torch.sin(torch.arange(48_000 * seconds) / 50).numpy() / 2, 48_000)
        rows = [(str(clip), str(folder / f"{seconds}.wav")) for clip in range(clips)]
        table = pd.DataFrame(rows, columns=["sound_id", "path"])
        place = folder / f"store-{seconds}"
        ended = run(lambda t=table, p=place: len(build_store(t, p, 48_000, prepare, 1, progress=False).index))
        say("memory", ended.result == clips and ended.memory < limit, f"{clips} clips of {seconds} s: {ended}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/faults", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25, help="kills an area (default: 25)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put the table into tests/README.md")
    given = parser.parse_args()
    counts: dict[str, list[int]] = {}

    def say(kind: str, fine: bool, detail: str) -> None:
        tried = counts.setdefault(kind, [0, 0])
        tried[0] += 1
        tried[1] += not fine
        if not fine:
            print(f"LOST {kind}: {detail}", flush=True)

    with tempfile.TemporaryDirectory(prefix="haf-faults-") as name:
        root, number = Path(name), given.kills
        work = Work(root / "inputs")
        for area in AREAS:
            few = {"sweep": 10, "pretraining": 2}.get(area, 1)
            kinds = {"kills": max(1, number // few)}
            kinds |= {"errors": number // few // 2, "delays": number // few // 4} if area != "sweep" else {}
            rng = random.Random(f"{given.seed} {area}")
            disturb(area, getattr(work, area), root / area, kinds, rng, say)
        for area in FILES:
            rng = random.Random(f"{given.seed} {area} damage")
            damage(area, getattr(work, area), root / f"{area}-damage", max(2, number // 4), rng, say)
        attack(work.inputs, work.site, say)
        memory(work.inputs, say)
    rows = [f"| {kind} | {tried} | {tried - lost} | {lost} |" for kind, (tried, lost) in counts.items()]
    total = [sum(column) for column in zip(*counts.values(), strict=True)]
    rows.append(f"| **all** | {total[0]} | {total[0] - total[1]} | {total[1]} |")
    table = "\n".join(["| fault | tried | handled | lost |", "|---|---|---|---|", *rows])
    print(table)
    if given.write:
        readme = TESTS / "README.md"
        readme.write_text(re.sub(r"\| fault \|.*\|", lambda _: table, readme.read_text("utf-8"), flags=re.S), "utf-8")
    return int(total[1] > 0)


if __name__ == "__main__":
    sys.exit(main())
