"""Linux namespaces by ctypes, for `align.rewards.jail`: what a box's programs can see of the
machine.

They see a read-only /usr and their language, an empty folder in memory, no network device that is
up, no process but theirs and no user but `nobody`. Standard library only. Python 3.11 has neither
`os.unshare` nor mounts. Read-only for whole trees (`mount_setattr`) needs Linux 5.12.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence

NOBODY = 65534
INODES = 20_000
"""Files and folders that a box may hold."""

NEW_MOUNTS, NEW_UTS, NEW_IPC = 0x00020000, 0x04000000, 0x08000000
NEW_USER, NEW_PIDS, NEW_NET = 0x10000000, 0x20000000, 0x40000000
READ_ONLY, NO_SUID, NO_DEV, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 4096, 16384, 1 << 18
DETACH = 2
DUMPABLE = 4
MOUNT_SETATTR, AT_RECURSIVE, AT_FDCWD = 442, 0x8000, -100

LINKED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
"""Folders of / that are links into /usr on most systems."""
BOUND: tuple[str, ...] = ("/usr", "/etc/ld.so.cache", "/etc/alternatives")
DEVICES = ("null", "zero", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def enter_namespaces() -> None:
    """New namespaces for the children; without root also one of users, which allows the others."""
    flags = NEW_MOUNTS | NEW_UTS | NEW_IPC | NEW_PIDS | NEW_NET
    if os.geteuid() == 0:
        check(_libc.unshare(flags), "unshare")
        return
    user, group = os.geteuid(), os.getegid()
    check(_libc.unshare(flags | NEW_USER), "unshare")
    proc = open_own_proc()
    map_ids(proc, user, group)
    os.close(proc)


def open_own_proc() -> int:
    """A handle of /proc/self, good even where /proc is no longer to be seen."""
    return os.open("/proc/self", os.O_RDONLY)


def map_ids(proc: int, user: int, group: int) -> None:
    """The outer user and group become `nobody` in this process's new namespace of users."""
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {user} 1"),
        ("gid_map", f"{NOBODY} {group} 1"),
    ):
        file = os.open(name, os.O_WRONLY, dir_fd=proc)
        try:
            os.write(file, text.encode())
        finally:
            os.close(file)


def become_nobody() -> None:
    """Gives up root for good."""
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def separate_users(proc: int) -> None:
    """A namespace of users for `nobody`: the kernel counts processes by user within one, and boxes
    must not share the count.
    """
    control(DUMPABLE, 1)  # else /proc/self is root's
    check(_libc.unshare(NEW_USER), "unshare (users)")
    map_ids(proc, NOBODY, NOBODY)


def build_root(root: str, mounts: Sequence[str], disk_bytes: int) -> str:
    """Moves into a file system in memory that holds the system read-only and nothing else of the
    machine; returns its empty writable folder.
    """
    check(_libc.sethostname(b"box", 3), "sethostname")
    mount("none", "/", None, RECURSIVE | PRIVATE)
    size = f"size={disk_bytes},nr_inodes={INODES},mode=755"
    mount("tmpfs", root, "tmpfs", NO_SUID | NO_DEV, size)
    for path in ("/box", "/tmp", "/dev", "/dev/shm", "/proc"):
        os.mkdir(root + path)
    for path in ("/box", "/tmp", "/dev/shm"):
        os.chmod(root + path, 0o1777)
    shown = list[str](BOUND)
    for name in LINKED:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        else:
            shown.append(f"/{name}")
    for path in (*shown, *mounts):
        if os.path.exists(path) and not os.path.lexists(root + path):
            bind(path, root + path, READ_ONLY | NO_SUID | NO_DEV)
    for name in DEVICES:
        bind(f"/dev/{name}", f"{root}/dev/{name}", NO_SUID)
    mount("proc", f"{root}/proc", "proc", NO_SUID | NO_DEV, "subset=pid")
    os.chdir(root)
    check(_libc.pivot_root(b".", b"."), "pivot_root")
    check(_libc.umount2(b".", DETACH), "umount")
    os.chdir("/")
    return "/box"


def bind(source: str, target: str, attributes: int) -> None:
    """Shows `source` at `target` with these attributes added, in everything below it too."""
    if os.path.isdir(source):
        os.makedirs(target)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT))
    mount(source, target, None, BIND | RECURSIVE)
    wanted = (ctypes.c_uint64 * 4)(attributes, 0, 0, 0)
    place = ctypes.c_char_p(os.fsencode(target))
    done = _libc.syscall(
        MOUNT_SETATTR, AT_FDCWD, place, AT_RECURSIVE, ctypes.byref(wanted), ctypes.sizeof(wanted)
    )
    check(done, f"mount_setattr {source}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """`mount(2)`; raises `OSError`."""
    done = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind and kind.encode(),
        ctypes.c_ulong(flags),
        options.encode(),
    )
    check(done, f"mount {kind or source}")


def control(option: int, value: int) -> None:
    """`prctl(2)`; raises `OSError`."""
    check(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl {option}")


def check(result: int, what: str) -> None:
    """Raises `OSError` with the C library's last error where a call failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
