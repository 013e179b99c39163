"""A process that maps a file of a file system that does not answer any more, or with errors alone: FUSE, served by a child of it.

    stalling.py [--overlay OVERLAY EMPTY] [--content FILE] [--silent WHEN] [--use HOW] [--user UID] DIRECTORY

Mounts on DIRECTORY a file system with a few names for one file ("code", "more", "perf-PID.map"), which has the content of FILE,
uses it, says "ready", and ends when its standard input ends. A line of standard input before that has it do its work and say
"done". The server falls silent:

    opened      when the file was opened once
    opened-N    when it was opened N times
    told        between "ready" and the work, of which "silent" tells; "ready" comes before
    never

Then the connection ends only with the server, and with it whoever waits. The file is used as

    code        mapped as code, twice by two names
    library     a library; the work is a call of its function plug_run
    names       the names of code made at run time, in a mount namespace where DIRECTORY is /tmp; the work is a call of malloc
                from there, whose result is kept

With --user the file system lets in nobody but that user, whom the process becomes.

With --overlay the file is mapped by way of an overlay of DIRECTORY over EMPTY, and every reading of it fails.
"""
import argparse, ctypes, errno, mmap, os, signal, struct, sys

parser = argparse.ArgumentParser()
parser.add_argument("directory")
parser.add_argument("--overlay", nargs=2)
parser.add_argument("--content")
parser.add_argument("--silent", default="opened")
parser.add_argument("--use", default="code")
parser.add_argument("--user", type=int, default=0)
arguments = parser.parse_args()

FAILS = arguments.overlay is not None
SILENT = "never" if FAILS else arguments.silent
LOOKUP, GETATTR, OPEN, READ, STATFS, GETXATTR, INIT, OPENDIR = 1, 3, 14, 15, 17, 22, 26, 27
# FORGET, INTERRUPT, BATCH_FORGET
UNANSWERED = (2, 36, 42)
# RELEASE, FLUSH, RELEASEDIR
DONE = (18, 25, 29)
# Each reading is asked for as it is made; or else what was read once stays. Whoever closes it need not wait.
DIRECT_IO, KEEP_CACHE, NOFLUSH = 1, 2, 32
PAGE = 4096
# The code that is made at run time lies here.
MADE = 0x200000000
NAMES = ["code", "more", f"perf-{os.getpid()}.map"]

content = bytes(PAGE)
if arguments.content:
    with open(arguments.content, "rb") as file:
        content = file.read()
if arguments.use == "names":
    content = f"{MADE:x} {PAGE:x} made\n".encode()


def attributes(node):
    mode = 0o40755 if node == 1 else 0o100755
    size = len(content)
    # ino, size, blocks, three times, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags
    return struct.pack("<6Q10I", node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, PAGE, 0)


def serve(device):
    """Answers until it is to fall silent."""
    # What the kernel asks once only, unless it must always ask.
    names, known = 3600, 0 if SILENT == "told" else 3600
    opened = 0
    while True:
        request = os.read(device, 1 << 17)
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        arguments = request[40:]
        error = 0
        reply = b""
        if opcode in UNANSWERED:
            continue
        if opcode == INIT:
            reply = struct.pack("<4I2H2I2H8I", 7, 31, 65536, 0, 12, 9, 65536, 1, 0, 0, *[0] * 8)[:64]
        elif opcode == LOOKUP:
            name = arguments.rstrip(b"\0").decode()
            if name in NAMES:
                node = 2 + NAMES.index(name)
                reply = struct.pack("<4Q2I", node, 0, names, known, 0, 0) + attributes(node)
            else:
                error = -errno.ENOENT
        elif opcode == GETATTR:
            reply = struct.pack("<Q2I", known, 0, 0) + attributes(node)
        elif opcode == OPENDIR:
            reply = struct.pack("<Q2I", 1, 0, 0)
        elif opcode == OPEN:
            opened += 1
            reply = struct.pack("<Q2I", 1, NOFLUSH | (DIRECT_IO if SILENT.startswith("opened-") else KEEP_CACHE), 0)
        elif opcode == READ and not FAILS:
            _, offset, size = struct.unpack_from("<QQI", arguments)
            reply = content[offset : offset + size]
        elif opcode == READ:
            error = -errno.EIO
        elif opcode == STATFS:
            reply = struct.pack("<5Q10I", 1, 0, 0, 1, 0, PAGE, 255, PAGE, *[0] * 7)
        elif opcode == GETXATTR:
            error = -errno.ENODATA
        elif opcode not in DONE:
            error = -errno.ENOSYS
        os.write(device, struct.pack("<IiQ", 16 + len(reply), error, unique) + reply)
        if opcode == OPEN and SILENT in ("opened", f"opened-{opened}"):
            return


device = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)


def require(result, what):
    if result != 0:
        sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")


MS_REC_PRIVATE, CLONE_NEWNS, MNT_DETACH = 0x44000, 0x20000, 2
if arguments.use == "names" or arguments.user:
    require(libc.unshare(CLONE_NEWNS), "unshare")
    require(libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None), "private")
options = f"fd={device},rootmode=40000,user_id={arguments.user},group_id={arguments.user}".encode()
require(libc.mount(b"stalling", arguments.directory.encode(), b"fuse", 0, options), "mount")
server = os.fork()
if server == 0:
    # PR_SET_PDEATHSIG: where this process is killed, nobody must wait for ever.
    libc.prctl(1, signal.SIGKILL)
    try:
        serve(device)
    except OSError:
        pass  # Unmounted.
    sys.stdin.read()
    os._exit(0)
os.close(device)
if arguments.user:
    os.setresgid(*[arguments.user] * 3)
    os.setresuid(*[arguments.user] * 3)
mounts = [arguments.directory]
if FAILS:
    overlay, empty = arguments.overlay
    mounts.append(overlay)
    layers = f"lowerdir={arguments.directory}:{empty}".encode()
    require(libc.mount(b"overlay", overlay.encode(), b"overlay", 0, layers), "overlay")


def named(name):
    return os.path.join(mounts[-1], name)


def mapped(name):
    file = os.open(named(name), os.O_RDONLY)
    return mmap.mmap(file, len(content), mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)


def made():
    """A function made at run time that calls malloc(1000)."""
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
    # MAP_FIXED
    at = libc.mmap(MADE, PAGE, 7, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10, -1, 0)
    malloc = ctypes.cast(libc.malloc, ctypes.c_void_p).value
    # push %rbp; mov %rsp, %rbp; mov $1000, %edi; movabs $malloc, %rax; call *%rax; pop %rbp; ret
    code = b"\x55\x48\x89\xe5\xbf" + struct.pack("<I", 1000) + b"\x48\xb8" + struct.pack("<Q", malloc) + b"\xff\xd0\x5d\xc3"
    ctypes.memmove(at, code, len(code))
    return ctypes.CFUNCTYPE(ctypes.c_void_p)(at)


work = lambda: None
if arguments.use == "code":
    # Where the first opening is the last that is answered, there is no other.
    kept = [mapped(name) for name in (NAMES[:1] if SILENT == "opened" or FAILS else NAMES[:2])]
elif arguments.use == "library":
    with open(named("code"), "rb") as file:
        # Every page of it is in memory.
        file.read()
    work = ctypes.CDLL(named("code")).plug_run
elif arguments.use == "names":
    work = made()
    if SILENT == "told":
        os.stat(named(NAMES[2]))
if SILENT == "opened" and arguments.use == "names":
    # It is not even found.
    os.kill(server, signal.SIGSTOP)
print("ready", flush=True)
if sys.stdin.readline().strip() == "work":
    if SILENT == "told":
        os.kill(server, signal.SIGSTOP)
    work()
    print("done", flush=True)
    sys.stdin.read()
if arguments.user:
    # The server is root's: it ends with this process, and so does the mount.
    sys.exit(0)
os.kill(server, signal.SIGKILL)
os.waitpid(server, 0)
for mount in reversed(mounts):
    libc.umount2(mount.encode(), MNT_DETACH)
