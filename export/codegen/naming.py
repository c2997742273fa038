"""Names in generated C: the user's prefix, and enum constants made of labels (users.md, 4)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from ndtool.console import visible
from ndtool.errors import ConfigError
from ndtool.export.codegen.runtime import runtime_stems

_PREFIX: Final = re.compile(r"[a-z][a-z0-9_]{0,40}", re.ASCII)
_NOT_IN_CONSTANT: Final = re.compile(r"[^A-Z0-9]+")
MAX_LABEL_PART: Final = 31  # the index before it already makes the constant unique

# ISO/IEC 9899:2011 6.4.1 and ISO/IEC 14882:2020 5.11 with its alternative tokens, as far as they
# can be written with [a-z0-9_]
_KEYWORDS: Final = """
    alignas alignof and and_eq asm auto bitand bitor bool break case catch char char16_t char32_t
    char8_t class co_await co_return co_yield compl concept const const_cast consteval constexpr
    constinit continue decltype default delete do double dynamic_cast else enum explicit export
    extern false float for friend goto if inline int long mutable namespace new noexcept not not_eq
    nullptr operator or or_eq private protected public register reinterpret_cast requires restrict
    return short signed sizeof static static_assert static_cast struct switch template this
    thread_local throw true try typedef typeid typename union unsigned using virtual void volatile
    wchar_t while xor xor_eq
"""
KEYWORDS: Final = frozenset(_KEYWORDS.split())
# PREFIX.h would hide the standard header from every file that is compiled with our folder in its
# include path: C11 7.1.2, and POSIX's that share a name with nothing of C.
_HEADERS: Final = """
    aio assert complex cpio ctype dirent dlfcn errno fcntl fenv float fmtmsg fnmatch ftw glob grp
    iconv inttypes iso646 langinfo libgen limits locale math memory monetary mqueue ndbm netdb
    nl_types poll pthread pwd regex sched search semaphore setjmp signal spawn stdalign stdarg
    stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string strings stropts syslog tar
    termios tgmath threads time trace uchar ulimit unistd utime utmpx wchar wctype wordexp
"""
HEADERS: Final = frozenset(_HEADERS.split())
# Targets of make and CMake (CMP0037), and of our build files: a library of that name would be
# refused, or take the target's place in the user's project.
_TARGETS: Final = """
    all always check clean common default_target depend edit_cache help install
    list_install_components package package_source preinstall rebuild_cache run size test
"""
TARGETS: Final = frozenset(_TARGETS.split())
OURS: Final = frozenset({"nd", "nd_assert", "nd_status"})  # of the runtime, beside its files
# Ends of the files that a model `x` has beside x.h and x.c. A model `x_data` would have an x_data.h
# of another meaning, with the same include guard, and build files would take it for a part of x.
FILE_ENDS: Final = ("_data", "_golden", "_labels", "_layers", "_main", "_pixels", "_tflm")


def check_prefix(prefix: str) -> str:
    """The prefix itself when every name made of it is a legal, unreserved identifier.

    Raises:
        ConfigError: wrong characters or length, a keyword, the name of a standard header, of a
            build target or of the runtime, or the end of a project's files.
    """
    if _PREFIX.fullmatch(prefix) is None:
        fault = "must match [a-z][a-z0-9_]{0,40}"
    elif "__" in prefix or prefix.endswith("_"):
        fault = "must not hold '__' nor end with '_' (reserved in C++)"
    elif prefix in KEYWORDS:
        fault = "is a keyword of C or C++"
    elif prefix in HEADERS:
        fault = "is the name of a standard header"
    elif prefix in TARGETS:
        fault = "is a target of make or CMake"
    elif prefix in OURS or prefix in runtime_stems():
        fault = "is used by the runtime itself"
    elif prefix.endswith(FILE_ENDS):
        fault = f"must not end with _{prefix.rpartition('_')[2]}, as a model's own files do"
    else:
        return prefix
    raise ConfigError(
        f"prefix '{visible(prefix)}' {fault}",
        where="--prefix",
        remedy="use a name such as nd_model",
        code="codegen.prefix",
    )


def label_constants(labels: Sequence[str]) -> tuple[str, ...]:
    """One enum constant a label, without prefix: `C0_DAISY`, or `C3` where no ASCII letter is left.

    Accents are dropped (NFKD), everything outside [A-Z0-9] becomes one `_`. The index in front
    keeps the constants different, whatever the labels are; there is never a `__`.
    """
    return tuple(
        "_".join(part for part in (f"C{k}", _ascii(t)) if part) for k, t in enumerate(labels)
    )


def _ascii(text: str) -> str:
    letters = (c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    words = _NOT_IN_CONSTANT.sub("_", "".join(letters).upper())
    return words.strip("_")[:MAX_LABEL_PART].rstrip("_")
