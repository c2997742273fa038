"""Closed sets of words and ids that must not be mixed."""

from __future__ import annotations

from enum import StrEnum
from typing import NewType

Sha256 = NewType("Sha256", str)  # 64 lower-case hex digits


class Recipe(StrEnum):
    """How the student is trained (design, 9)."""

    PLAIN = "plain"
    KD = "kd"
    NETAUG = "netaug"
    NETDISTILLER = "netdistiller"


class TeacherKind(StrEnum):
    """What the file of an external teacher is."""

    CHECKPOINT = "checkpoint"
    ONNX = "onnx"
    TORCHVISION = "torchvision"


class StudentLoss(StrEnum):
    """What the student learns from in-situ (training-methods, 1.2).

    ud: KL to the teacher where the student is unsure, labels elsewhere. mix: the sum of KL and
    labels. ce: labels alone, which is co-training.
    """

    UD = "ud"
    KL = "kl"
    MIX = "mix"
    CE = "ce"


class Freeze(StrEnum):
    """What keeps the values that it starts with; batch norms then run on stored statistics.

    backbone: all but the classifier. norms: gamma, beta and statistics of the batch norms.
    """

    NONE = "none"
    BACKBONE = "backbone"
    NORMS = "norms"


class Augmentation(StrEnum):
    """How a training picture is varied (training-methods, 1.7).

    crop: cut at a random place of the padded pixels. resized-crop: a random window of the original
    picture, scaled to the input, in random brightness and saturation.
    """

    CROP = "crop"
    RESIZED_CROP = "resized-crop"


class Precision(StrEnum):
    """Number format of the forward and backward passes; weights and losses are always fp32."""

    FP32 = "fp32"
    BF16 = "bf16"


class Converter(StrEnum):
    """Who writes the int8 file (design, 7)."""

    NATIVE = "native"
    TENSORFLOW = "tensorflow"


class FcScales(StrEnum):
    """Weight scales of fully connected layers; per tensor is what old TFLM releases read."""

    PER_CHANNEL = "per-channel"
    PER_TENSOR = "per-tensor"


class Hop(StrEnum):
    """One conversion whose loss is measured."""

    FLOAT = "float"
    ONNX = "onnx"
    INT8 = "int8"
    C = "c"


class Runtime(StrEnum):
    """Interpreter of the int8 hop."""

    TFLM = "tflm"
    LITERT = "litert"
    TFLITE_RUNTIME = "tflite-runtime"


class Policy(StrEnum):
    """How much accuracy may be lost against a baseline (users.md, 5.4)."""

    STRICT = "strict"
    PAIRED = "paired"


class Part(StrEnum):
    """Part of a data set."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"
