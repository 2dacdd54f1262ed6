"""The one reader of recordings: a sound file, block by block, and everything that can be wrong with it.

Validation, the audio store, prediction and pictures all read through `scan`, so that they give one answer in one
wording. libsndfile's number of frames is an estimate for MP3, FLAC and Ogg, and decides nothing here.
"""

import os
import re
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile

__all__ = ["CATEGORIES", "UNUSABLE", "AudioError", "Sound", "decode", "header", "scan"]

# What can be wrong with a recording, in the order of reports. A problem is one of these, a colon and the details.
UNUSABLE = {
    "missing": "clips without a recording",
    "unsupported": "recordings in a format that is not read: convert them to WAV or FLAC",
    "damaged": "recordings that cannot be decoded, or not to their end",
    "empty": "recordings without samples",
    "too long": "recordings longer than one hour, or of more samples than an hour at 96 kHz",
    "not finite": "recordings with NaN or infinite samples",
    "out of range": "recordings whose float samples are not on the scale from -1 to 1",
    "silent": "recordings in which nothing is left after quantization to 16 bit",
}
CATEGORIES = UNUSABLE | {
    "wrong extension": "recordings named as another format than they are",
    "unusual": "recordings longer than ten minutes or below 4 kHz",
    "out of phase": "recordings whose channels cancel each other: the loudest one alone is used",
    "short": "recordings shorter than 10 ms",
}

LONGEST = 3600.0  # seconds; the datasets end at 30, and a clip is kept in memory as a whole
MOST_VALUES = 3600 * 96_000  # frames × channels
LONG = 600.0  # seconds
LOW_RATE = 4_000  # Hz: less than a telephone
SHORT = 0.010  # seconds; BSD10k's shortest clip has 7 ms, so short is unusual, not wrong
SILENT = 1 / 32_767  # peak below which nothing is left after CLAP's quantization to 16 bit
LOUDEST = 16.0  # peak (24 dB above full scale): what is above was written on the scale of integers
CANCELLED = 1e-4  # power of the mean of the channels relative to the loudest channel: 40 dB
_BLOCK = 1 << 18  # values (frames × channels) decoded at a time
_START = 1 << 16  # bytes in which headers are looked for
_UNKNOWN_LENGTH = 0x7FFF_0000  # bytes: a writer that could not seek back leaves such a length in the header
_FAR = 1 << 36  # bytes: longer than any file that is read here
_CUT = re.compile(r"^\s*data\s*: (\d+) \(should be (\d+)\)", re.M)
_TEXT = re.compile(rb"[\t\n\r -~\x80-\xf4]+")
_OTHER = re.compile(rb"(?s)....ftyp|ADIF|#!AMR|\x1a\x45\xdf\xa3|\x30\x26\xb2\x75|\xff[\xf0\xf1\xf8\xf9]")
_MPEG = re.compile(rb"\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff][\x10-\xef]")  # first bytes of a frame, layers I to III
# libsndfile's format -> the extensions that name it. A WAV by content may be called nothing else.
_EXTENSIONS = {
    **dict.fromkeys(("WAV", "WAVEX", "RF64"), (".wav", ".wave", ".rf64")),
    **{"FLAC": (".flac",), "OGG": (".ogg", ".oga", ".opus"), "MP3": (".mp3",)},
}


class AudioError(ValueError):
    """A recording that cannot be used; the message names the file and says why (`reason` is that alone)."""

    def __init__(self, path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = str(path), reason

    def __reduce__(self):
        return AudioError, (self.path, self.reason)


@dataclass
class Sound:
    """What reading a recording found: frames (a channel), rate in Hz, channels; peak over all channels and mono_peak of
    their mean (full scale 1); energy, the sum of squares of each channel (channels,), and mono_energy; format as
    libsndfile names it; problem, "" or a category of `CATEGORIES`, a colon and the details."""

    frames: int = 0
    rate: int = 0
    channels: int = 0
    peak: float = 0.0
    mono_peak: float = 0.0
    energy: np.ndarray = field(default_factory=lambda: np.zeros(0))
    mono_energy: float = 0.0
    format: str = ""
    problem: str = ""

    @property
    def rms(self) -> float:
        """Over all channels, full scale 1."""
        return float(np.sqrt(self.energy.sum() / (self.frames * self.channels))) if self.frames else 0.0

    @property
    def cancels(self) -> bool:
        """Whether little is left of the channels in their mean."""
        return self.mono_peak < SILENT <= self.peak or self.mono_energy < CANCELLED * self.energy.max(initial=0.0)


def decode(path, seconds: float | None = None) -> tuple[np.ndarray, int]:
    """Decode a recording (WAV, FLAC, Ogg, MP3, …), or its first `seconds`, to mono.

    Returns samples, float32 (n,), nominally in [-1, 1], n >= 1, and the sampling rate in Hz: the mean of the channels,
    or the loudest one where they cancel each other. Raises AudioError for what is in `UNUSABLE` (of the first seconds:
    silence and an end that is missing do not count).
    """
    mono: list[np.ndarray] = []
    sound = scan(path, lambda _, mean: mono.append(mean), seconds)
    if sound.problem.split(":")[0] in UNUSABLE:
        raise AudioError(path, sound.problem)
    if sound.cancels:
        mono.clear()
        scan(path, lambda block, _: mono.append(block[:, sound.energy.argmax()].copy()), seconds)
    return np.concatenate(mono), sound.rate


def header(path) -> tuple[float, int, int]:
    """What a recording's header says: duration in seconds (an estimate), rate in Hz, channels. Raises AudioError."""
    try:
        with _regular(path) as handle, soundfile.SoundFile(os.dup(handle.fileno())) as file:
            frames = min(file.frames, LONGEST * file.samplerate)
            return frames / file.samplerate, file.samplerate, file.channels
    except (OSError, soundfile.SoundFileError) as error:
        raise AudioError(path, _reason(path, error)) from error


def scan(path, use: Callable[[np.ndarray, np.ndarray], None] | None = None, seconds: float | None = None) -> Sound:
    """Read a recording from beginning to end, or its first `seconds`, in constant memory -> `Sound`; raises nothing.
    use: called with each block, float32 (frames, channels), overwritten by the next one, and its mean (frames,)."""
    sound = Sound()
    try:
        with _regular(path) as handle:
            for source, expected in _sources(handle, path):
                with soundfile.SoundFile(source) as file:
                    # read() seeks after each block, which compressed formats cannot do everywhere.
                    file.seekable = lambda: False
                    _read(file, sound, use, seconds)
                    if seconds is None:
                        _check_end(file, sound, source, file.frames if expected is None else expected)
        sound.problem = _problem(sound, Path(os.fsdecode(path)).suffix.lower(), seconds)
    except AudioError as error:
        sound.problem = error.reason
    except (OSError, soundfile.SoundFileError, MemoryError, ValueError, RuntimeError) as error:
        sound.problem = _reason(path, error)
    return sound


def _reason(path, error: Exception) -> str:
    if isinstance(error, AudioError):
        return error.reason
    if isinstance(error, FileNotFoundError):
        return f"missing: {'a link to nothing' if os.path.islink(path) else 'no such file'}"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error).split(": ")[-1]
    return f"damaged: {text.rstrip('.') or type(error).__name__}"


def _regular(path):
    """The file, opened. What is no file is refused before opening: a pipe would wait for its writer for ever."""
    if path is None:
        raise AudioError(path, "missing: no recording")
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
        raise AudioError(path, f"missing: {kind}, not a file")
    return open(path, "rb", buffering=0)


class _Part:
    """Part of a file, as a file: `head` in the place of what is before `begin`, then what follows, as long as `length`
    says; bytes that are not there are 128 zeros at the end (mpg123 wants to see a tag there), and before them nothing.
    """

    def __init__(self, handle, head: bytes = b"", begin: int = 0, length: int | None = None):
        self.handle, self.head, self.begin, self.place = handle, head, begin, 0
        self.there = len(head) + os.fstat(handle.fileno()).st_size - begin
        self.length = self.there if length is None else length

    def seek(self, offset: int, whence: int = 0) -> int:
        self.place = offset + (0, self.place, self.length)[whence]
        return self.place

    def tell(self) -> int:
        return self.place

    def read(self, count: int) -> bytes:
        count = max(0, min(count, self.length - self.place))
        data = self.head[self.place : self.place + count]
        if self.place >= max(self.there, self.length - 128):
            data = bytes(count)
        elif len(data) < count:
            self.handle.seek(self.begin + max(0, self.place - len(self.head)))
            data += self.handle.read(count - len(data))
        self.place += len(data)
        return data


def _sources(handle, path) -> list[tuple]:
    """What libsndfile has to open, one after the other, to read all of a file; and how many samples have to come of
    it, 0 where nobody knows, None where libsndfile does."""
    size = os.fstat(handle.fileno()).st_size
    start = handle.read(_START)
    if not start:
        raise AudioError(path, "empty: the file has no bytes")
    if _OTHER.match(start):
        raise AudioError(path, "unsupported: M4A, AAC, WMA, WebM or AMR: convert it to WAV or FLAC")
    if start[:4] == b"OggS":
        streams = _ogg_streams(handle, size, path)
        return [(_Part(handle, begin=begin, length=end - begin), 0) for begin, end in streams]
    begin = 0
    if start[:3] == b"ID3":  # its length is in bytes of 7 bits
        begin = 10 + sum((byte & 127) << shift for byte, shift in zip(start[6:10], (21, 14, 7, 0), strict=False))
        handle.seek(begin)
        start = handle.read(_START)
    if start[:4] == b"fLaC":  # with 0, "unknown", as the number of samples, all of them are read
        part = _Part(handle, start[:21] + bytes([start[21] & 0xF0]) + bytes(4), begin + 26)
        return [(part, int.from_bytes(start[21:26], "big") & 0xF_FFFF_FFFF)]
    if begin or _MPEG.match(start) or os.fsdecode(path).lower().endswith(".mp3"):
        if frame := _MPEG.search(start):
            tag = re.search(rb"(?:Xing|Info)...(.)", start[frame.start() : frame.start() + 200], re.S)
            begin, counted = begin + frame.start(), tag and tag[1][0] & 1
            return [(_Part(handle, begin=begin), None) if counted else (_Part(handle, b"", begin, _FAR), 0)]
    if _TEXT.fullmatch(start[:200]):
        shown = start[:40].decode(errors="replace")
        raise AudioError(path, f"damaged: a text or a web page, no recording: it begins {shown!r}")
    if start[:4] == b"RIFF" and (place := _zero_length(start, size)):
        return [(_Part(handle, start[:place] + (size - place - 4).to_bytes(4, "little"), place + 4), None)]
    handle.seek(0)
    return [(os.dup(handle.fileno()), None)]  # libsndfile closes it


def _zero_length(start: bytes, size: int) -> int:
    """Where a WAV says that it has 0 bytes of sound although some follow (a recorder lost power); 0 if it does not."""
    place = 12
    while place + 8 <= len(start):
        length = int.from_bytes(start[place + 4 : place + 8], "little")
        if start[place : place + 4] == b"data":
            chunk, rest = re.match(rb"[ -~]{4}", start[place + 8 :]), size - place - 16
            follows = chunk and int.from_bytes(start[place + 12 : place + 16], "little") <= rest
            return place + 4 if length == 0 < size - place - 8 and not follows else 0
        place += 8 + length + length % 2
    return 0


def _ogg_streams(handle, size: int, path) -> list[tuple[int, int]]:
    """First byte and end of the streams that stand one after the other in an Ogg file, whose pages are checked.

    A page (RFC 3533): "OggS", version, flags (2: first, 4: last of a stream), position (8 bytes), serial number, number
    of the page, CRC-32 (4 each), number of segments, their lengths, their bytes.
    """
    begins, place, number, flags = [], 0, {}, 2
    while place < size:
        handle.seek(place)
        head = handle.read(27)
        if flags & 4 and head[:4] != b"OggS" and size - place < _START:
            break  # a tag or padding behind the last page
        lengths = handle.read(head[26]) if len(head) == 27 else b""
        body = handle.read(sum(lengths))
        serial, page, check = (int.from_bytes(head[i : i + 4], "little") for i in (14, 18, 22))
        if len(head) < 27 or len(lengths) < head[26] or len(body) < sum(lengths):
            raise AudioError(path, f"damaged: cut short in an Ogg page, byte {place} of {size}")
        if head[:4] != b"OggS" or _ogg_crc(head[:22] + bytes(4) + head[26:] + lengths + body) != check:
            raise AudioError(path, f"damaged: an Ogg page is broken, byte {place} of {size}")
        if head[5] & 2 and not flags & 2 or not begins:
            begins.append(place)
            number.clear()
        if page != number.get(serial, page):
            raise AudioError(path, f"damaged: Ogg pages are missing before byte {place} of {size}")
        number[serial], flags = page + 1, head[5]
        place += len(head) + len(lengths) + len(body)
    if not flags & 4:
        raise AudioError(path, "damaged: cut short, the last Ogg page is missing")
    return list(zip(begins, [*begins[1:], size], strict=True))


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _ogg_crc(page: bytes) -> int:
    """Ogg's CRC-32: zlib's with the bits of each byte in the other order, from 0."""
    crc = zlib.crc32(page.translate(_REVERSED), 0xFFFF_FFFF) ^ 0xFFFF_FFFF
    return int(f"{crc:032b}"[::-1], 2)


def _read(file: soundfile.SoundFile, sound: Sound, use: Callable | None, seconds: float | None) -> None:
    rate, channels = file.samplerate, file.channels
    if sound.frames and (rate, channels) != (sound.rate, sound.channels):
        raise AudioError(file.name, "damaged: streams of different rates or channels one after the other")
    if not sound.frames:
        sound.rate, sound.channels, sound.energy, sound.format = rate, channels, np.zeros(channels), file.format
    most = min(LONGEST * rate, MOST_VALUES / channels)
    wanted = most if seconds is None else int(seconds * rate) + 1
    if file.format not in ("FLAC", "OGG", "MP3") and seconds is None and file.frames > most:
        raise AudioError(file.name, _too_long(file.frames, sound))
    block = np.empty((max(1, _BLOCK // channels), channels), dtype=np.float32)
    while sound.frames < wanted + (seconds is None) and len(samples := file.read(out=block)):
        if seconds is not None:
            samples = samples[: wanted - sound.frames]
        sound.frames += len(samples)
        if sound.frames > most:
            raise AudioError(file.name, _too_long(sound.frames, sound))
        with np.errstate(invalid="ignore", over="ignore"):
            mean = samples[:, 0].copy() if channels == 1 else samples.mean(axis=1)
            sound.energy += np.einsum("ij,ij->j", samples, samples, dtype=np.float64)
            sound.mono_energy += float(np.dot(mean, mean))
        sound.peak = max(sound.peak, float(np.abs(samples).max(initial=0.0)))
        sound.mono_peak = max(sound.mono_peak, float(np.abs(mean).max(initial=0.0)))
        if use:
            use(samples, mean)


def _too_long(frames: int, sound: Sound) -> str:
    shown = f"{frames / sound.rate / 3600:.1f} h of {sound.channels} channels at {sound.rate} Hz"
    return f"too long: {shown}, {LONGEST / 3600:g} h at most"


def _check_end(file: soundfile.SoundFile, sound: Sound, source, expected: int) -> None:
    """Raise AudioError if an open file, read to what libsndfile takes for its end, is not all there."""
    cut = _CUT.search(file.extra_info)
    if cut and int(cut[2]) < int(cut[1]) < _UNKNOWN_LENGTH:
        raise AudioError(file.name, f"damaged: cut short, {cut[2]} of {cut[1]} bytes of sound are there")
    if sound.frames < expected:
        raise AudioError(file.name, f"damaged: ends after {sound.frames} of {expected} samples")
    if file.format == "MP3" and expected and isinstance(source, _Part):
        rest = source.read(_START)
        if len(rest) > 8192 and _MPEG.match(rest):  # a few frames of padding are the rule
            raise AudioError(file.name, f"damaged: goes on after the {expected} samples that its header counts")


def _problem(sound: Sound, suffix: str, seconds: float | None) -> str:
    if sound.frames == 0:
        return "empty: no samples"
    if not np.isfinite(sound.energy.sum()) or not np.isfinite(sound.peak):
        return "not finite: holds NaN, infinite or absurdly large samples"
    if sound.peak > LOUDEST:
        return f"out of range: samples up to {sound.peak:.0f}, full scale is 1: they are on a scale of integers"
    if seconds is not None:
        return ""
    length = sound.frames / sound.rate
    if sound.peak < SILENT:
        return f"silent: peak {sound.peak:.1e}"
    if suffix not in _EXTENSIONS.get(sound.format, (suffix,)):
        return f"wrong extension: {sound.format} named {suffix}"
    if sound.rate < LOW_RATE or length > LONG:
        return f"unusual: {length:.1f} s at {sound.rate} Hz"
    if sound.cancels:
        return f"out of phase: its {sound.channels} channels cancel each other, the loudest is used"
    if length < SHORT:
        return f"short: {1000 * length:.1f} ms"
    return ""
