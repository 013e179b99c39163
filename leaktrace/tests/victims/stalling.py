"""A process that maps a file of a file system that does not answer any more: FUSE, served by a child of it.

    stalling.py DIRECTORY

Mounts on DIRECTORY a file system with one file, maps that as code, has the server fall silent, says "ready", and ends when its
standard input ends. The connection ends with the server, and with it whoever waits.
"""
import ctypes, mmap, os, struct, sys

MOUNT = sys.argv[1]
LOOKUP, GETATTR, OPEN, INIT, FLUSH, RELEASE = 1, 3, 14, 26, 25, 18
SIZE = 4096


def attributes(node):
    mode = 0o40755 if node == 1 else 0o100755
    # ino, size, blocks, three times, their nanoseconds, mode, nlink, uid, gid, rdev, blksize, flags
    return struct.pack("<6Q10I", node, SIZE, 8, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def serve(device):
    """Answers until the file was opened once, and never again."""
    while True:
        request = os.read(device, 1 << 17)
        _, opcode, unique, node = struct.unpack_from("<IIQQ", request)
        if opcode == INIT:
            reply = struct.pack("<4I2H2I2H8I", 7, 31, 65536, 0, 12, 9, 65536, 1, 0, 0, *[0] * 8)[:64]
        elif opcode == LOOKUP:
            reply = struct.pack("<4Q2I", 2, 0, 3600, 3600, 0, 0) + attributes(2)
        elif opcode == GETATTR:
            reply = struct.pack("<Q2I", 3600, 0, 0) + attributes(node)
        elif opcode == OPEN:
            reply = struct.pack("<Q2I", 1, 0, 0)
        else:
            reply = b""
        os.write(device, struct.pack("<IiQ", 16 + len(reply), 0, unique) + reply)
        if opcode == OPEN:
            return


device = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
if libc.mount(b"stalling", MOUNT.encode(), b"fuse", 0, options) != 0:
    sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
server = os.fork()
if server == 0:
    serve(device)
    sys.stdin.read()
    os._exit(0)
os.close(device)
file = os.open(os.path.join(MOUNT, "code"), os.O_RDONLY)
mapped = mmap.mmap(file, SIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC)
print("ready", flush=True)
sys.stdin.read()
libc.umount2(MOUNT.encode(), 2)
os.waitpid(server, 0)
