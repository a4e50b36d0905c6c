"""How long an mp3 of variable bit rate is. Most say it in their first frame (a "Xing", "Info" or "VBRI" header); where it was cut off or never written,
libsndfile goes by the first frame's bit rate: half of the song is not read, or seems to be missing. Files joined end to end have several of them, and
it goes by the first alone. Layer III alone. Bytes in, bytes out.

Frame headers: ISO/IEC 11172-3, 2.4.1.3; 13818-3; the Xing header: 4 bytes of name, 4 of flags (1 = a count follows), 4 of count.
"""

from itertools import pairwise

_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # Hz, by the header's version
_KILOBITS = {
    True: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""A second, by the header's index from 1 on: of version 3 (MPEG-1), and of the others."""
_COUNT = 1  # flag of a Xing header
_STRAY = 20  # more frames than were promised, half a second: fewer are what encoders count differently


def parts(data: bytes) -> list[bytes]:
    """The files that an mp3 was joined of, each with its tags: those after the first are known by the frame that says how long they are, or begin where
    the frames end that such a one promises."""
    if not (data[:3] == b"ID3" or _frame_bytes(data, 0)):
        return [data]
    first = _next_frame(data, after_tags(data))
    cuts = [0, *(_before_tags(data, position) for position in _says_length(data, first + 1)), len(data)]
    return [part for begin, end in pairwise(cuts) for part in _where_promised(data[begin:end])]


def _where_promised(data: bytes) -> list[bytes]:
    """A file, cut where as many frames end as its first one says if more than `_STRAY` follow."""
    begin = _next_frame(data, after_tags(data))
    promised, count, cut = _promised(data, begin), 0, len(data)
    position = begin + _frame_bytes(data, begin)
    while promised and (size := _frame_bytes(data, position)):
        if count == promised:
            cut = position
        count, position = count + 1, position + size
        if not _frame_bytes(data, position):  # a tag between two files that were joined, damage, or the end
            position = _next_frame(data, position)
        if count > promised + _STRAY:
            cut = _before_tags(data, cut)
            return [data[:cut], data[cut:]]
    return [data]


def _promised(data: bytes, position: int) -> int:
    """How many frames follow the one that begins there, as it says; 0: it does not."""
    for name, flag, count in ((b"Xing", 4, 8), (b"Info", 4, 8), (b"VBRI", None, 14)):
        at = data.find(name, position, position + min(64, _frame_bytes(data, position)))
        if at >= 0 and (flag is None or data[at + flag + 3] & _COUNT):
            return int.from_bytes(data[at + count : at + count + 4], "big")
    return 0


def _says_length(data: bytes, begin: int) -> list[int]:
    """Where the frames after `begin` lie that say how many follow them."""
    found = set()
    for name in (b"Xing", b"Info", b"VBRI"):
        position = begin
        while (position := data.find(name, position + 1)) >= 0:
            for side in (32,) if name == b"VBRI" else (32, 17, 9):
                for checksum in (0, 2):
                    at = position - 4 - checksum - side
                    size = _frame_bytes(data, at) if at >= begin else 0
                    fits = size and (name == b"VBRI" or _side_bytes(data[at : at + 4]) == side) and checksum == 2 * (not data[at + 1] & 1)
                    if fits and (_frame_bytes(data, at + size) or at + size == len(data)):
                        found.add(at)
    return sorted(found)


def _before_tags(data: bytes, position: int) -> int:
    """Where the tag begins that ends at `position`, if one does; else `position`."""
    tag = data.rfind(b"ID3", 0, position)
    return tag if tag >= 0 and tag + after_tags(data[tag:position]) == position else position


def with_length(data: bytes) -> bytes:
    """An mp3 of variable bit rate that does not say how many frames it has, with a first frame that does; anything else as it is."""
    begin, head = _unpromising(data)
    count, position, varies = 0, begin, False
    while head and (size := _frame_bytes(data, position)):
        varies = varies or data[position + 2] >> 4 != head[2] >> 4
        count, position = count + 1, position + size
        if not _frame_bytes(data, position):  # a tag between two files that were joined, damage, or the end
            position = _next_frame(data, position)
    return data[:begin] + _first_frame(head, count) + data[begin:] if varies else data


def is_guessed(data: bytes) -> bool:
    """Whether how long an mp3 is can only be guessed by its bytes, those of tags among them."""
    return bool(_unpromising(data)[1])


def _unpromising(data: bytes) -> tuple[int, bytes]:
    """Where the first frame begins, and the frame; nothing where it says how many follow, or where there is none."""
    begin = _next_frame(data, after_tags(data)) if data[:3] == b"ID3" or _frame_bytes(data, 0) else len(data)
    head = data[begin : begin + _frame_bytes(data, begin)]
    return begin, b"" if any(name in head for name in (b"Xing", b"Info", b"VBRI")) else head


def after_tags(data: bytes) -> int:
    """Where what follows the tags at the beginning lies."""
    position = 0
    while data[position : position + 3] == b"ID3" and len(data) >= position + 10:
        has_footer = bool(data[position + 5] & 0x10)
        size = sum(byte << shift for byte, shift in zip(data[position + 6 : position + 10], (21, 14, 7, 0), strict=True))
        position += 10 + size + 10 * has_footer
    return position


def _next_frame(data: bytes, position: int) -> int:
    """Where the next frame that another follows begins; `len(data)`: nowhere."""
    while (position := data.find(b"\xff", position)) >= 0:
        size = _frame_bytes(data, position)
        if size and (_frame_bytes(data, position + size) or position + size == len(data)):
            return position
        position += 1
    return len(data)


def _frame_bytes(data: bytes, position: int) -> int:
    """Length of the whole frame that begins there, its header included; 0: none does."""
    head = data[position : position + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:  # 11 ones, layer III
        return 0
    version, kilobits, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version not in _RATES or not 0 < kilobits < 15 or rate == 3:
        return 0
    size = _bytes(version, kilobits, rate) + (head[2] >> 1 & 1)
    return size if position + size <= len(data) else 0


def _bytes(version: int, kilobits: int, rate: int) -> int:
    return (144 if version == 3 else 72) * _KILOBITS[version == 3][kilobits - 1] * 1000 // _RATES[version][rate]


def _first_frame(head: bytes, count: int) -> bytes:
    """A silent frame like that of `head` which says that `count` follow."""
    version, rate, kilobits = head[1] >> 3 & 3, head[2] >> 2 & 3, 9
    header = bytes([0xFF, head[1] | 1, kilobits << 4 | rate << 2, head[3]])  # no checksum
    frame = header + bytes(_side_bytes(head)) + b"Xing" + _COUNT.to_bytes(4, "big") + count.to_bytes(4, "big")
    return frame.ljust(_bytes(version, kilobits, rate), b"\0")


def _side_bytes(head: bytes) -> int:
    """Between the header of a frame, or its checksum, and what says how many follow."""
    is_mono = head[3] >> 6 == 3
    return {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}[head[1] >> 3 & 3 == 3, is_mono]
