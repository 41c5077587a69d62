"""The Linux kernel's numbers that Python does not know, and a way to call libc. Standard library and ctypes only."""

import ctypes
import os

MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"machine -> its column in CALLS, its number for a filter of system calls (AUDIT_ARCH)."

_TABLE = """
socket 41 198, connect 42 203, bind 49 200,
ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, process_madvise 440 440, pidfd_getfd 438 438,
kcmp 312 272, tkill 200 130, rt_sigqueueinfo 129 138, rt_tgsigqueueinfo 297 240, pidfd_send_signal 424 424,
mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, unshare 272 97, setns 308 268, open_tree 428 428,
move_mount 429 429, fsopen 430 430, fsconfig 431 431, fsmount 432 432, fspick 433 433, mount_setattr 442 442,
kexec_load 246 104, kexec_file_load 320 294, bpf 321 280, perf_event_open 298 241, userfaultfd 323 282,
init_module 175 105, finit_module 313 273, delete_module 176 106, iopl 172 -, ioperm 173 -, modify_ldt 154 -,
io_uring_setup 425 425, io_uring_enter 426 426, io_uring_register 427 427,
add_key 248 217, request_key 249 218, keyctl 250 219,
name_to_handle_at 303 264, open_by_handle_at 304 265, fanotify_init 300 262, inotify_init 253 -, inotify_init1 294 26,
memfd_create 319 279, memfd_secret 447 447, shmget 29 194, shmat 30 196, shmctl 31 195, semget 64 190, semctl 66 191,
semop 65 193, semtimedop 220 192, msgget 68 186, msgsnd 69 189, msgrcv 70 188, msgctl 71 187, mq_open 240 180,
mq_unlink 241 181, chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, chown 92 -, fchown 93 55, lchown 94 -,
fchownat 260 54, truncate 76 45, setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7, setxattrat 463 463,
removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16, removexattrat 466 466,
reboot 169 142, swapon 167 224, swapoff 168 225, acct 163 89, quotactl 179 60, quotactl_fd 443 443, syslog 103 116,
settimeofday 164 170, clock_settime 227 112, adjtimex 159 171, clock_adjtime 305 266, sethostname 170 161,
setdomainname 171 162, vhangup 153 58
"""
_PARTLY = "clone 56 220, clone3 435 435, socketpair 53 199, kill 62 129, tgkill 234 131"


def _numbers(table: str) -> dict[str, tuple[int | None, int | None]]:
    rows = (row.split() for row in table.replace("\n", " ").split(","))
    return {name: tuple(None if number == "-" else int(number) for number in numbers)
            for name, *numbers in rows}


REFUSED = _numbers(_TABLE)
"""System calls that a submission never makes -> their numbers on (x86_64, aarch64). They open the network or services
(D-Bus, Docker) by a socket, reach into other processes or the kernel, hold memory that no limit counts (memfd, System
V), or change files that Landlock does not guard (modes, owners)."""
CALLS = REFUSED | _numbers(_PARTLY)
"... and those that are refused for some arguments only: confine.py says which."

NAMESPACES = {"mount": 0x20000, "ipc": 0x8000000, "net": 0x40000000, "pid": 0x20000000, "user": 0x10000000}
NEW_NAMESPACES = sum(NAMESPACES.values()) | 0x2000000 | 0x4000000  # and cgroup, uts

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18

LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT = 444, 445, 446  # the same on every machine
FS_EXECUTE, FS_WRITE_FILE, FS_READ_FILE, FS_READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
FS_TRUNCATE, FS_IOCTL_DEV = 1 << 14, 1 << 15
FS_READ = FS_READ_FILE | FS_READ_DIR
FS_FILE = FS_EXECUTE | FS_WRITE_FILE | FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV  # what a plain file can have
FS_NEVER = FS_EXECUTE | 1 << 6 | 1 << 9 | 1 << 11 | FS_IOCTL_DEV | 1 << 16  # run; make devices, sockets; use sockets


def landlock_rights(abi: int) -> tuple[int, int, int]:
    """Return all rights that a version of Landlock can take away: on files, on the network, and across processes."""
    files = (1 << 13) - 1
    for since, bit in ((2, 13), (3, 14), (5, 15), (9, 16)):
        files |= (abi >= since) << bit
    network = (0b11 if abi >= 4 else 0) | (0b1100 if abi >= 10 else 0)
    return files, network, 0b11 if abi >= 6 else 0


libc = ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> int:
    """Call a function of libc; raise OSError where it returns -1."""
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = getattr(libc, name)(*words)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prctl(option: int, argument: int, pointer: object = 0) -> None:
    """Set an attribute of this process."""
    call("prctl", option, argument, pointer, 0, 0)
