"""A process that maps a file of a file system that does not answer any more, or with errors alone: FUSE, served by a child of it.

    stalling.py DIRECTORY
    stalling.py DIRECTORY OVERLAY EMPTY

Mounts on DIRECTORY a file system with one file, maps that as code, has the server fall silent, says "ready", and ends when its
standard input ends. The connection ends with the server, and with it whoever waits. With OVERLAY the file is mapped by way of
an overlay of DIRECTORY over EMPTY, and every reading of it fails.
"""
import ctypes, errno, mmap, os, signal, struct, sys

MOUNT = sys.argv[1]
FAILS = len(sys.argv) > 2
LOOKUP, GETATTR, OPEN, READ, STATFS, GETXATTR, INIT, OPENDIR = 1, 3, 14, 15, 17, 22, 26, 27
# FORGET, INTERRUPT, BATCH_FORGET
UNANSWERED = (2, 36, 42)
# RELEASE, FLUSH, RELEASEDIR
DONE = (18, 25, 29)
ERRORS = {READ: -errno.EIO, GETXATTR: -errno.ENODATA}
SIZE = 4096


def attributes(node):
    mode = 0o40755 if node == 1 else 0o100755
    # ino, size, blocks, three times, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags
    return struct.pack("<6Q10I", node, SIZE, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def serve(device):
    """Answers until the file was opened once, and never again, or always, readings with an error."""
    while True:
        request = os.read(device, 1 << 17)
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        error = 0
        if opcode in UNANSWERED:
            continue
        if opcode == INIT:
            reply = struct.pack("<4I2H2I2H8I", 7, 31, 65536, 0, 12, 9, 65536, 1, 0, 0, *[0] * 8)[:64]
        elif opcode == LOOKUP:
            reply = struct.pack("<4Q2I", 2, 0, 3600, 3600, 0, 0) + attributes(2)
        elif opcode == GETATTR:
            reply = struct.pack("<Q2I", 3600, 0, 0) + attributes(node)
        elif opcode in (OPEN, OPENDIR):
            reply = struct.pack("<Q2I", 1, 0, 0)
        elif opcode == STATFS:
            reply = struct.pack("<5Q10I", 1, 0, 0, 1, 0, 4096, 255, 4096, *[0] * 7)
        else:
            reply = b""
            error = ERRORS.get(opcode, 0 if opcode in DONE else -errno.ENOSYS)
        os.write(device, struct.pack("<IiQ", 16 + len(reply), error, unique) + reply)
        if opcode == OPEN and not FAILS:
            return


device = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"stalling", MOUNT.encode(), b"fuse", 0, options) != 0:
    sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
server = os.fork()
if server == 0:
    try:
        serve(device)
    except OSError:
        pass  # Unmounted.
    sys.stdin.read()
    os._exit(0)
os.close(device)
mounts = [MOUNT]
if FAILS:
    mounts.append(sys.argv[2])
    layers = f"lowerdir={MOUNT}:{sys.argv[3]}".encode()
    if libc.mount(b"overlay", mounts[-1].encode(), b"overlay", 0, layers) != 0:
        sys.exit(f"overlay: {os.strerror(ctypes.get_errno())}")
file = os.open(os.path.join(mounts[-1], "code"), os.O_RDONLY)
mapped = mmap.mmap(file, SIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
print("ready", flush=True)
sys.stdin.read()
for mount in reversed(mounts):
    libc.umount2(mount.encode(), 2)
os.kill(server, signal.SIGKILL)
os.waitpid(server, 0)
