"""Made-up CIFAR archives, in the publisher's two versions and as Python 3 would pickle them again.

`python2_pickle` writes what the cPickle of Python 2 wrote in 2010, opcode by opcode; that of the
names of CIFAR-10 and CIFAR-100 has the publisher's md5 (test_plain_pickle.py).
"""

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

BATCH = 1000  # items that cPickle appends at once
TEN = "airplane automobile bird cat deer dog frog horse ship truck"
HUNDRED = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange
orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit
raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel
streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
turtle wardrobe whale willow_tree wolf woman worm
"""
COARSE = """
aquatic_mammals fish flowers food_containers fruit_and_vegetables household_electrical_devices
household_furniture insects large_carnivores large_man-made_outdoor_things
large_natural_outdoor_scenes large_omnivores_and_herbivores medium_mammals non-insect_invertebrates
people reptiles small_mammals trees vehicles_1 vehicles_2
"""
CIFAR10_NAMES, CIFAR100_NAMES, COARSE_NAMES = TEN.split(), HUNDRED.split(), COARSE.split()


@dataclass
class Python2Pickle:
    """A cPickle of protocol 2."""

    out: bytearray = field(default_factory=lambda: bytearray(b"\x80\x02"))
    kept: int = 0  # memo indices begin with 1

    def keep(self) -> None:
        """Into the memo, whether it is needed again or not."""
        self.kept += 1
        short = self.kept < 256
        self.out += struct.pack("<cB" if short else "<cI", b"q" if short else b"r", self.kept)

    def number(self, value: int) -> None:
        if 0 <= value < 256:
            self.out += struct.pack("<cB", b"K", value)
        elif 0 <= value < 65536:
            self.out += struct.pack("<cH", b"M", value)
        else:
            self.out += struct.pack("<ci", b"J", value)

    def text(self, value: bytes, *, keep: bool = True) -> None:
        short = len(value) < 256
        self.out += struct.pack("<cB" if short else "<ci", b"U" if short else b"T", len(value))
        self.out += value
        if keep:
            self.keep()

    def name(self, module: str, name: str) -> None:
        self.out += f"c{module}\n{name}\n".encode()
        self.keep()

    def array(self, pixels: np.ndarray) -> None:
        self.name("numpy.core.multiarray", "_reconstruct")
        self.name("numpy", "ndarray")
        self.out += b"K\x00\x85U\x01b\x87R"
        self.keep()
        self.out += b"(K\x01"
        for size in pixels.shape:
            self.number(size)
        self.out += b"\x86"
        self.name("numpy", "dtype")
        self.out += b"U\x02u1K\x00K\x01\x87R"
        self.keep()
        self.out += b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        self.text(pixels.tobytes(), keep=False)
        self.out += b"tb"

    def value(self, value: object) -> None:
        if isinstance(value, int):
            self.number(value)
        elif isinstance(value, str):
            self.text(value.encode())
        elif isinstance(value, np.ndarray):
            self.array(value)
        else:
            assert isinstance(value, list)
            self.out += b"]"
            self.keep()
            for start in range(0, len(value), BATCH):
                self.out += b"("
                for item in value[start : start + BATCH]:
                    self.value(item)
                self.out += b"e"


def python2_pickle(values: Mapping[str, object]) -> bytes:
    """The bytes of a dict of numbers, texts, lists of these and uint8 arrays of rank 2."""
    made = Python2Pickle()
    made.out += b"}"
    made.keep()
    made.out += b"("
    for key, value in values.items():
        made.text(key.encode())
        made.value(value)
    made.out += b"u."
    return bytes(made.out)


@dataclass(frozen=True)
class Made:
    """A data set of random pixels whose classes take turns."""

    name: str  # cifar10 or cifar100
    names: tuple[str, ...]
    images: Mapping[str, np.ndarray]  # train, test: (N, 32, 32, 3) uint8

    def labels(self, part: str) -> list[int]:
        return [k % len(self.names) for k in range(len(self.images[part]))]


def make(name: str, train_per_class: int = 30, test_per_class: int = 1) -> Made:
    """Equal pixels for equal arguments; enough of each class for a validation part."""
    names = CIFAR10_NAMES if name == "cifar10" else CIFAR100_NAMES
    rng = np.random.default_rng(7)
    counts = {"train": train_per_class * len(names), "test": test_per_class * len(names)}
    images = {k: rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for k, n in counts.items()}
    return Made(name, tuple(names), images)


def batches(made: Made) -> dict[str, tuple[np.ndarray, list[int]]]:
    """File stem -> rows of red, green and blue planes (N, 3072), labels."""
    found: dict[str, tuple[np.ndarray, list[int]]] = {}
    for part, images in made.images.items():
        rows = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
        labels = made.labels(part)
        if made.name == "cifar100":
            found[part] = (rows, labels)
        elif part == "test":
            found["test_batch"] = (rows, labels)
        else:
            size = len(rows) // 5
            for k in range(5):
                own = slice(k * size, (k + 1) * size)
                found[f"data_batch_{k + 1}"] = (rows[own], labels[own])
    return found


def write_binary(root: Path, made: Made) -> Path:
    """The binary version in its folder under `root`."""
    tens = made.name == "cifar10"
    folder = root / ("cifar-10-batches-bin" if tens else "cifar-100-binary")
    folder.mkdir(parents=True)
    for stem, (rows, labels) in batches(made).items():
        fine = np.array(labels, np.uint8)[:, None]
        # Superclasses come first and are not used: numbers that are no class would be seen.
        lead = [fine] if tens else [255 - fine, fine]
        (folder / f"{stem}.bin").write_bytes(np.hstack([*lead, rows]).tobytes())
    names = "batches.meta.txt" if tens else "fine_label_names.txt"
    (folder / names).write_text("".join(f"{name}\n" for name in made.names) + "\n")
    return folder


def write_python(root: Path, made: Made, protocol: int | None = None) -> Path:
    """The Python version; with a protocol as Python 3 saves it, with bytes as keys."""
    tens = made.name == "cifar10"
    folder = root / ("cifar-10-batches-py" if tens else "cifar-100-python")
    folder.mkdir(parents=True)

    def write(stem: str, values: Mapping[str, object]) -> None:
        if protocol is None:
            content = python2_pickle(values)
        else:
            content = pickle.dumps({k.encode(): v for k, v in values.items()}, protocol)
        (folder / stem).write_bytes(content)

    for stem, (rows, labels) in batches(made).items():
        filenames = [f"picture_s_{k:06d}.png" for k in range(len(rows))]
        given = {"labels": labels} if tens else {"fine_labels": labels, "coarse_labels": labels}
        write(stem, {"batch_label": stem, **given, "data": rows, "filenames": filenames})
    if tens:
        meta = {"num_cases_per_batch": 10000, "label_names": list(made.names), "num_vis": 3072}
        write("batches.meta", meta)
    else:
        names = {"fine_label_names": list(made.names), "coarse_label_names": COARSE_NAMES}
        write("meta", names)
    return folder
